#include "noise_floor.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "kvtool/run/calibration.h"
#include "run/calibrate/worker_process.h"

namespace kvtool::run {
namespace {

std::string text_of_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool is_batched(std::span<const ReferenceSet> references) {
  return std::ranges::any_of(references, [](const ReferenceSet& reference) {
    return std::ranges::any_of(reference.batches,
                               [](const PlannedBatch& batch) { return batch.rows.size() > 1; });
  });
}

// Empty: there is none that this device can be limited to.
std::string weaker_instruction_set(const LabRequest& request, const Services& services,
                                   const std::string& device_type) {
  if (device_type != "cpu" || !services.worker) return {};
  const std::vector<std::string> weaker =
      weaker_instruction_sets(text_of_file(request.cpuinfo), request.run.cpu_isa);
  return weaker.empty() ? std::string() : weaker.front();
}

analysis::Figures measured_under(const std::string& cpu_isa, const LabRequest& request,
                                 const Services& services,
                                 const std::vector<format::ReplayMode>& modes,
                                 const analysis::FlipBounds& bounds) {
  WorkerTask task{.action = WorkerAction::kMeasure, .request = request.run, .flip_bounds = bounds};
  task.request.cpu_isa = cpu_isa;
  task.request.prompts.clear();
  task.request.gate.reset();
  task.request.replay_modes = modes;
  WorkerAnswer answer = ask_worker(services, task, "the noise floor under " + cpu_isa);
  if (!answer.measurement) throw_internal("a worker measured nothing");
  return std::move(answer.measurement->figures);
}

}  // namespace

NoiseFloor noise_floor(const LabRequest& request, const Services& services,
                       const std::string& device_type, std::span<const ReferenceSet> references,
                       const std::vector<format::ReplayMode>& modes,
                       const analysis::FlipBounds& bounds) {
  NoiseFloor floor;
  const std::string cpu_isa = weaker_instruction_set(request, services, device_type);
  if (!cpu_isa.empty()) {
    floor.note = "instruction set " + cpu_isa;
    floor.figures = measured_under(cpu_isa, request, services, modes, bounds);
    return floor;
  }
  if (is_batched(references)) {
    floor.note = "one input at a time instead of in batches";
    floor.single_inputs = true;
    return floor;
  }
  floor.missing =
      "no weaker instruction set to limit this device to, and no recorded batch of "
      "more than one input to replay one at a time";
  return floor;
}

}  // namespace kvtool::run

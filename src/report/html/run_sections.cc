// What a page says about the run itself.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "html/escape.h"
#include "html/sections.h"

namespace kvtool::report::html {
namespace {

constexpr std::size_t kListedMissing = 50;

std::string definition(std::string_view name, std::string_view value) {
  if (value.empty()) return {};
  return fmt::format("<dt>{}</dt><dd>{}</dd>\n", text(name), text(value));
}

// Settings may nest; a path of names keeps them apart.
std::string settings(const nlohmann::json& object, const std::string& prefix) {
  std::string list;
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      list += settings(value, prefix + key + ".");
    } else if (!value.is_null()) {
      using Handler = nlohmann::json::error_handler_t;
      list += definition(prefix + key, value.is_string()
                                           ? value.get<std::string>()
                                           : value.dump(-1, ' ', false, Handler::replace));
    }
  }
  return list;
}

}  // namespace

std::string badge(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPass: return "<span class=\"badge pass\">✓ PASS</span>";
    case Outcome::kFail: return "<span class=\"badge fail\">✗ FAIL</span>";
    case Outcome::kError: return "<span class=\"badge error\">⚠ ERROR</span>";
    case Outcome::kDone: return "<span class=\"badge done\">DONE</span>";
  }
  return {};
}

std::string tile(const std::string& heading, const std::string& value, const std::string& note) {
  return fmt::format(
      "<div class=\"tile\"><div class=\"tile-heading\">{}</div><div class=\"tile-value\">{}</div>"
      "<div class=\"tile-note\">{}</div></div>\n",
      text(heading), text(value), text(note));
}

std::string missing_section(const std::vector<std::string>& paths) {
  std::string list;
  for (std::size_t i = 0; i < std::min(paths.size(), kListedMissing); ++i) {
    list += fmt::format("<li><code>{}</code></li>\n", text(paths[i]));
  }
  if (paths.size() > kListedMissing) {
    list += fmt::format("<li>… and {} more</li>\n", paths.size() - kListedMissing);
  }
  return fmt::format(
      "<section class=\"card\">\n<header class=\"verdict\"><div class=\"badge-line\">{}<div>"
      "<h2>Not compared, since it has no partner</h2></div></div></header>\n<ul>\n{}</ul>"
      "</section>\n",
      badge(Outcome::kFail), list);
}

std::string error_section(int exit_status, const std::string& message) {
  return fmt::format(
      "<section class=\"card\">\n<header class=\"verdict\"><div class=\"badge-line\">{}<div>"
      "<h2>The command ended with an error (exit status {})</h2></div></div>"
      "<p class=\"finding\">{}</p></header>\n<p class=\"quiet\">What was compared before it is "
      "below; it is not a verdict.</p></section>\n",
      badge(Outcome::kError), exit_status, text(message));
}

std::string run_section(const RunDescription& run, const run::DeviceDescription& device,
                        const std::vector<run::ModelDescription>& models) {
  std::string list =
      definition("command", "kvtool " + run.command) + definition("kvtool", run.kvtool_version) +
      definition("created", run.created_utc) + definition("device", device.label) +
      definition("device name", device.name) + definition("torch", device.torch_version);
  for (const run::ModelDescription& model : models) {
    list += definition("model", model.id) + definition("architecture", model.architecture) +
            definition("dtype", model.dtype) +
            definition("layers", std::to_string(model.num_layers)) +
            definition("weights SHA-256", model.weights_sha256) +
            definition("config SHA-256", model.config_sha256) +
            definition("graph SHA-256", model.graph_sha256) + definition("file", model.path);
  }
  const auto provenance = nlohmann::json::parse(device.provenance_json, nullptr, false);
  if (provenance.is_object()) list += settings(provenance, "");
  return "<section class=\"card\">\n<details><summary>Where this report comes from</summary>\n"
         "<dl class=\"facts\">\n" +
         list + "</dl></details>\n</section>\n";
}

}  // namespace kvtool::report::html

#include "kvtool/cli/app.h"
#include "kvtool/cli/interrupt.h"

int main(int argc, char** argv) {
  kvtool::cli::ignore_write_signals();
  kvtool::cli::install_interrupt_handlers();
  kvtool::cli::Services services = kvtool::cli::system_services();
  return kvtool::cli::run_app(argc, argv, services);
}

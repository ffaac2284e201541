#include "app.h"
#include "interrupt.h"

int main(int argc, char** argv) {
  kvtool::cli::ignore_write_signals();
  kvtool::cli::install_interrupt_handlers();
  kvtool::cli::Terminal terminal = kvtool::cli::system_terminal();
  return kvtool::cli::run_app(argc, argv, terminal);
}

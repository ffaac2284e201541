// --help that fits 80 columns.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace kvtool::cli {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter();
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override;
  std::string make_description(const CLI::App* app) const override;
  std::string make_option_desc(const CLI::Option* option) const override;
  std::string make_subcommand(const CLI::App* app) const override;
  std::string make_footer(const CLI::App* app) const override;
};

// Words of `text` in lines of at most `width` characters.
std::string wrapped(const std::string& text, std::size_t width);

}  // namespace kvtool::cli

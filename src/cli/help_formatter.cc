#include "help_formatter.h"

#include <sstream>
#include <utility>

namespace kvtool::cli {
namespace {

constexpr std::size_t kColumns = 80;
constexpr std::size_t kNameColumns = 28;
constexpr std::size_t kCommandColumns = 14;

}  // namespace

std::string wrapped(const std::string& text, std::size_t width) {
  std::istringstream words(text);
  std::string result;
  std::string word;
  std::size_t column = 0;
  while (words >> word) {
    const bool fits = column == 0 || column + 1 + word.size() <= width;
    if (column > 0) result += fits ? ' ' : '\n';
    column = fits && column > 0 ? column + 1 + word.size() : word.size();
    result += word;
  }
  return result;
}

HelpFormatter::HelpFormatter() { column_width(kNameColumns); }

// CLI11 puts two empty lines between groups and none below the description.
std::string HelpFormatter::make_help(const CLI::App* app, std::string name,
                                     CLI::AppFormatMode mode) const {
  const std::string help = CLI::Formatter::make_help(app, std::move(name), mode);
  return CLI::detail::find_and_replace(help, "\n\n\n", "\n\n");
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return CLI::Formatter::make_description(app) + "\n";
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  return wrapped(option->get_description(), kColumns - kNameColumns);
}

std::string HelpFormatter::make_subcommand(const CLI::App* app) const {
  std::ostringstream out;
  CLI::detail::format_help(out, app->get_name(),
                           wrapped(app->get_description(), kColumns - kCommandColumns),
                           kCommandColumns);
  return out.str();
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  const std::string footer = app->get_footer();
  return footer.empty() ? footer : "\n" + footer + "\n";
}

}  // namespace kvtool::cli

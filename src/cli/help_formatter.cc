#include "help_formatter.h"

#include <sstream>

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

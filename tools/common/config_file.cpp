#include "tools/common/config_file.h"

#include <algorithm>

#include "base/error.h"
#include "formats/json.h"

namespace l4::tools {

namespace {

std::string flag_name(std::string_view key, const std::string& where) {
  std::string name(key);
  std::replace(name.begin(), name.end(), '_', '-');
  const bool is_name = !name.empty() && name.size() <= 100 && name[0] != '-' &&
                       std::all_of(name.begin(), name.end(),
                                   [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
  if (!is_name) fail_input(where, ": expected a flag's name without its dashes, found ", shown(key));
  return name;
}

void add_entry(std::vector<ConfigEntry>& entries, ConfigEntry entry) {
  for (const ConfigEntry& other : entries)
    if (other.key == entry.key) fail_input(entry.where, ": ", entry.key, " is there twice");
  entries.push_back(std::move(entry));
}

std::string json_text(const Json& value) {
  return value.is_string() ? value.as_string() : dump_json(value, JsonStyle::compact);
}

std::vector<ConfigEntry> parse_object(std::string_view text, const std::string& source) {
  const Json json = parse_json(text, source);
  if (!json.is_object()) fail_input(source, ": expected an object of flags, found ", json.kind_name());
  std::vector<ConfigEntry> entries;
  for (const auto& [key, value] : json.as_object()) {
    ConfigEntry entry{flag_name(key, source), {}, source};
    if (value.is_array()) {
      for (const Json& item : value.as_array()) entry.values.push_back(json_text(item));
    } else if (!value.is_null()) {  // null: as if it were not there
      entry.values.push_back(json_text(value));
    }
    add_entry(entries, std::move(entry));
  }
  return entries;
}

// One value at the beginning of `text`, up to a comma or bracket where it stands in a list; `text` begins behind it
// afterwards.
std::string take_value(std::string_view& text, bool in_list, const std::string& where) {
  text = trim(text);
  if (!text.empty() && (text[0] == '"' || text[0] == '\'')) {
    const char quote = text[0];
    std::string out;
    for (size_t i = 1; i < text.size(); ++i) {
      if (text[i] == quote && quote == '\'' && text.substr(i, 2) == "''") {
        out += text[++i];
      } else if (text[i] == quote) {
        const std::string_view whole = text.substr(0, i + 1);
        text.remove_prefix(i + 1);
        return quote == '\'' ? out : parse_json(whole, where).as_string();
      } else {
        if (quote == '"' && text[i] == '\\')
          ++i;  // whatever it is, it is not the end
        else
          out += text[i];
      }
    }
    fail_input(where, ": a quote that is not closed");
  }
  size_t end = in_list ? std::min(text.find_first_of(",]"), text.size()) : text.size();
  const size_t comment = text.find(" #");
  const bool is_comment = !text.empty() && text[0] == '#';
  end = is_comment ? 0 : std::min(end, comment);
  const std::string_view value = trim(text.substr(0, end));
  text.remove_prefix(std::min(end, text.size()));
  constexpr std::string_view kNotPlain = "&*!|>%@`{";
  if (!value.empty() && kNotPlain.find(value[0]) != kNotPlain.npos)
    fail_input(where, ": ", shown(value), " is more of YAML than is read here: quote it, or write the file as JSON");
  return std::string(value);
}

void expect_end(std::string_view rest, const std::string& where) {
  rest = trim(rest);
  if (!rest.empty() && rest[0] != '#') fail_input(where, ": unexpected ", shown(rest));
}

std::vector<std::string> take_values(std::string_view text, const std::string& where) {
  text = trim(text);
  if (text.empty() || text[0] == '#') return {};
  if (text[0] == '{') {  // an object stays the text it is
    const Json object = parse_json(text, where);
    return {dump_json(object, JsonStyle::compact)};
  }
  std::vector<std::string> values;
  if (text[0] != '[') {
    values.push_back(take_value(text, false, where));
    expect_end(text, where);
    return values;
  }
  text.remove_prefix(1);
  for (;;) {
    text = trim(text);
    if (!text.empty() && text[0] == ']') break;
    values.push_back(take_value(text, true, where));
    text = trim(text);
    if (!text.empty() && text[0] == ',')
      text.remove_prefix(1);
    else if (text.empty() || text[0] != ']')
      fail_input(where, ": expected , or ] in a list");
  }
  expect_end(text.substr(1), where);
  return values;
}

std::vector<ConfigEntry> parse_lines(std::string_view text, const std::string& source) {
  std::vector<ConfigEntry> entries;
  int number = 0;
  bool takes_items = false;  // the last entry had no value on its line
  for (const std::string& whole : split(text, '\n')) {
    const std::string where = cat(source, ", line ", ++number);
    const std::string_view line = trim(whole);
    if (line.empty() || line[0] == '#' || line == "---") continue;
    if (line.substr(0, 2) == "- ") {
      if (!takes_items) fail_input(where, ": an item without a list");
      std::string_view item = line.substr(2);
      entries.back().values.push_back(take_value(item, false, where));
      expect_end(item, where);
      continue;
    }
    const size_t colon = line.find(':');
    const bool is_entry = colon != line.npos && (colon + 1 == line.size() || line[colon + 1] == ' ');
    if (!is_entry) fail_input(where, ": expected \"flag: value\", found ", shown(line));
    if (whole[0] == ' ' || whole[0] == '\t') fail_input(where, ": flags are not indented");
    ConfigEntry entry{flag_name(trim(line.substr(0, colon)), where), take_values(line.substr(colon + 1), where), where};
    takes_items = entry.values.empty();
    add_entry(entries, std::move(entry));
  }
  return entries;
}

}  // namespace

std::vector<ConfigEntry> parse_config(std::string_view text, const std::string& source) {
  if (!is_valid_utf8(text)) fail_input(source, ": not UTF-8 text");
  const std::string_view content = trim(text);
  return !content.empty() && content[0] == '{' ? parse_object(content, source) : parse_lines(text, source);
}

}  // namespace l4::tools

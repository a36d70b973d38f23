// What Python's str and float make of text, where a recipe's rules rest on it. Text is valid UTF-8.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace l4::eval {

// float(text): white space around it, "1_000", "inf" and "nan" too; nothing where Python raises ValueError. (Digits are
// ASCII's; Python would also read those of other scripts.)
std::optional<double> python_float_of(std::string_view text);
// text.lower() of Latin, Greek and Cyrillic letters, fullwidth ones and the signs of kelvin, angstrom and ohm; what is
// of another script stands as it is, and so does the one letter whose small form is two characters (U+0130).
std::string python_lower(std::string_view text);
// any(c.isdigit() for c in text): superscripts and circled digits are digits to Python.
bool has_digit(std::string_view text);
// text.isalpha() and len(text) == 1
bool is_one_letter(std::string_view text);
// The first character, by code point; empty of nothing.
std::string_view first_character(std::string_view text);
// One of string.punctuation: all of ASCII's.
bool is_punctuation(char c);
// format(value, ","): whole numbers without ".0", thousands apart: "1,234,567", "1,234.5".
std::string with_thousands(double value);
// str(value), whole numbers without ".0": "1234567", "1234.5".
std::string shortest(double value);

}  // namespace l4::eval

package words

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// joiners are characters without a form of their own that scripts and emoji need inside of
// words.
const joiners = "\u200c\u200d"

// IsName says whether a text can name something: 1 to most characters, each of which has a
// form or is a blank, and not blanks alone. A name is shown in terminals, lists and logs,
// where a character that controls could hide or change what stands around it.
func IsName(text string, most int) bool {
	return utf8.RuneCountInString(text) <= most && strings.TrimSpace(text) != "" && IsLine(text)
}

// IsLine says whether a text has no characters that control anything, line ends included,
// and no bytes that are no character.
func IsLine(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return !unicode.IsGraphic(r) && !strings.ContainsRune(joiners, r)
	})
}

// IsText is IsLine of several lines, with tabs.
func IsText(text string) bool {
	return IsLine(strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ").Replace(text))
}

// UpperFirst is a text with its first letter in upper case, as a sentence begins.
func UpperFirst(text string) string {
	first, n := utf8.DecodeRuneInString(text)
	if first == utf8.RuneError {
		return text
	}
	return string(unicode.ToUpper(first)) + text[n:]
}

package agent

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFault bounds what is told of an error, in bytes.
const maxFault = 1000

var userinfo = regexp.MustCompile(`(://[^/\s:@]*):[^/\s@]+@`)

// faultOf is an error as its user reads it: one line, without passwords in URLs, and
// without the secrets given, should a library quote one.
func faultOf(err error, secrets ...string) string {
	return clip(plain(err.Error(), secrets...), maxFault)
}

// plain is a text in one line without secrets.
func plain(text string, secrets ...string) string {
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	return oneLine(userinfo.ReplaceAllString(text, "$1:***@"))
}

// oneLine makes a message of several lines, as joined errors give, one line.
func oneLine(s string) string {
	var parts []string
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return ' '
			}
			return r
		}, line))
		if line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, ": ")
}

// clip shortens s to at most n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n -= len("…"); !utf8.RuneStart(s[n]); n-- {
	}
	return s[:n] + "…"
}

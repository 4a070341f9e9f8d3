package node

import (
	"os"
	"strings"
)

// word is an argument in a vm.args file and where it stands.
type word struct {
	text       string // unquoted
	start, end int    // bytes in the file, quotes included
	comment    bool   // "#" to the end of the line
}

// vmWords splits a vm.args file: words between white space, quoted with ' or ",
// outside of quotes a backslash takes the next character as it is, and "#" ends a
// word and begins a comment.
//
// Source: Erlang/OTP 25, erts/etc/common/erlexec.c, read_args_file; tried with
// erl -args_file F -emu_args_exit.
func vmWords(data []byte) []word {
	var words []word
	for i := 0; i < len(data); {
		switch c := data[i]; {
		case isSpace(c):
			i++
		case c == '#':
			end := i
			for end < len(data) && data[end] != '\n' && data[end] != '\r' {
				end++
			}
			words = append(words, word{text: string(data[i:end]), start: i, end: end, comment: true})
			i = end
		default:
			text, end := vmWord(data, i)
			words = append(words, word{text: text, start: i, end: end})
			i = end
		}
	}
	return words
}

func vmWord(data []byte, i int) (text string, end int) {
	var b strings.Builder
	quote := byte(0)
	for ; i < len(data); i++ {
		c := data[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote == 0:
			if i++; i < len(data) {
				b.WriteByte(data[i])
			}
		case quote != 0:
			b.WriteByte(c)
		case c == '\'' || c == '"':
			quote = c
		case isSpace(c) || c == '#':
			return b.String(), i
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), min(i, len(data))
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// nodeName returns the name that -name or -sname in a vm.args file gives the
// node. hostname completes a name without "@", as Erlang does; if Erlang would
// need a full name and hostname is not one, the result is empty.
func nodeName(data []byte, hostname string) string {
	words := vmWords(data)
	for i, w := range words {
		if w.comment || w.text != "-name" && w.text != "-sname" {
			continue
		}
		if i+1 == len(words) || words[i+1].comment {
			return ""
		}
		name := words[i+1].text
		short, _, full := strings.Cut(hostname, ".")
		switch {
		case strings.Contains(name, "@"):
			return name
		case w.text == "-sname" && short != "":
			return name + "@" + short
		case full:
			return name + "@" + hostname
		}
		return ""
	}
	return "nonode@nohost" // what Erlang calls a node without a name
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	return h
}

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

const vmArgsName = "vm.args"

// erlEnv are the variables that Erlang takes arguments from: those of the first stand
// before all others, those of the rest behind them.
//
// Source: Erlang/OTP 25, erts/etc/common/erlexec.c, main.
var erlEnv = [3]string{"ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS"}

// nodeName returns the name that -name or -sname gives the node, and what says it: a
// variable, or vm.args, whose bytes are data. It is nonode@nohost if nothing does.
// hostname completes a name without "@", as Erlang does; if Erlang would need a full
// name and hostname is not one, the result is empty.
//
// Of several the first counts, and any -sname before a -name: what vm.args says is
// stronger than ERL_FLAGS.
//
// Source: Erlang/OTP 25, lib/kernel/src/erl_distribution.erl, do_start_link; tried
// with erlexec -args_file F and each of the variables.
func nodeName(data []byte, getenv func(string) string, hostname string) (name, source string) {
	type place struct {
		source string
		words  []word
	}
	list := []place{{erlEnv[0], vmWords([]byte(getenv(erlEnv[0])))}, {vmArgsName, vmWords(data)}}
	for _, key := range erlEnv[1:] {
		list = append(list, place{key, vmWords([]byte(getenv(key)))})
	}
	for _, flag := range []string{"-sname", "-name"} {
		for _, p := range list {
			if name, ok := flagOf(p.words, flag); ok {
				return fullName(name, flag, hostname), p.source
			}
		}
	}
	return "nonode@nohost", vmArgsName // what Erlang calls a node without a name
}

// flagOf returns the word behind a flag, and whether the flag is there.
func flagOf(words []word, flag string) (value string, ok bool) {
	for i, w := range words {
		if w.comment || w.text != flag {
			continue
		}
		if i+1 == len(words) || words[i+1].comment {
			return "", true
		}
		return words[i+1].text, true
	}
	return "", false
}

// fullName completes a node's name.
func fullName(name, flag, hostname string) string {
	short, _, full := strings.Cut(hostname, ".")
	switch {
	case strings.Contains(name, "@") || name == "":
		return name
	case flag == "-sname" && short != "":
		return name + "@" + short
	case full:
		return name + "@" + hostname
	}
	return ""
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	return h
}

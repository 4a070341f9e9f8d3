package node

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/userfile"
)

// Redact removes secrets from a configuration file of the node: RedactIni or
// RedactVMArgs, by the file's name.
//
// A file in UTF-16, which CouchDB can't read either, becomes UTF-8 if it has a secret.
func Redact(path string, data []byte) (clean []byte, removed []string) {
	redact := RedactVMArgs
	if filepath.Ext(path) == ".ini" {
		redact = RedactIni
	}
	text := userfile.Decode(data)
	if bytes.HasSuffix(data, text) { // alike but for a byte order mark
		return redact(data)
	}
	if clean, removed = redact(text); len(removed) == 0 {
		return data, nil
	}
	return clean, removed
}

// RedactIni removes the secrets from an ini file, for storage that is not
// encrypted, and names them as "section/key", in the order of the file. The line
// of a secret becomes a comment that says so, and all other bytes stay as they
// are, so that CouchDB reads the rest as before. A secret that is commented out
// or before the first section is removed as well.
//
// A secret is each setting of [admins] and [jwt_keys]; each whose name speaks of
// a password, secret, token, cookie, credential or private key, unless its value
// is true or false; and a URL with user:password@ in it. A section counts from the line
// that is meant to begin it, also where CouchDB skips that line, because of a comment or
// a byte order mark. What tells a secret from other settings are names, so a plugin's own
// may escape: encrypt the repository.
func RedactIni(data []byte) (clean []byte, removed []string) {
	var b bytes.Buffer
	section, meant := "", ""
	cut := false // whether the setting before is gone, and with it the lines that continue it
	eachLine(data, func(l line) {
		key, value, unused := l.key, l.value, false
		if l.section != section || l.header {
			section, cut = l.section, false
		}
		if name := meantSection(l.raw); name != "" {
			meant, cut = name, false
		}
		whole := wholeSection(section) || wholeSection(meant)
		if key == "" && !l.header && !l.continuation {
			key, value = unusedSetting(l.raw, whole)
			unused = key != ""
		}
		switch {
		case key != "" && (secretSetting(section, key, value) || secretSetting(meant, key, value)):
			name := shownSection(section, meant) + "/" + key
			if unused {
				name += " (not in use)"
			}
			removed = append(removed, name)
			b.WriteString("; removed by Slipcover, as this backup is not encrypted: " + printable(key))
			cut = cut || !unused
		case l.continuation && (cut || whole), whole && value == "" && isText(l):
			b.WriteString("; a line was removed by Slipcover")
		default:
			b.Write(l.raw)
			if l.key != "" {
				cut = false
			}
		}
		b.Write(l.end)
	})
	return b.Bytes(), removed
}

// meantSection returns the name in a line that a person takes for the start of a
// section and CouchDB doesn't: "[admins] # ours", or behind a byte order mark.
func meantSection(raw []byte) string {
	text, ok := strings.CutPrefix(trim(strings.TrimPrefix(trim(string(raw)), "\ufeff")), "[")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(text, "]")
	return strings.ToLower(trim(name))
}

// shownSection is the name to tell of: CouchDB's own, unless a person means another.
func shownSection(section, meant string) string {
	if strings.EqualFold(section, meant) {
		return section
	}
	return meant
}

// isText says that a line is neither empty nor a comment nor the start of a section,
// whoever reads it.
func isText(l line) bool {
	text := trim(string(l.raw))
	return text != "" && !l.header && meantSection(l.raw) == "" && !strings.HasPrefix(text, ";")
}

// unusedSetting returns the setting in a line that CouchDB skips, a comment or
// one before the first section. To tell it from prose, what stands before the "="
// must be a single word, unless anyKey.
func unusedSetting(raw []byte, anyKey bool) (key, value string) {
	text := trim(strings.TrimLeft(trim(string(raw)), "; \t"))
	key, value = cutSetting(text)
	if !anyKey && strings.ContainsAny(key, " \t;") {
		return "", ""
	}
	return key, value
}

// wholeSection says whether all settings of a section are secrets.
func wholeSection(section string) bool { return section == "admins" || section == "jwt_keys" }

// secretWords mark the name of a secret.
var secretWords = []string{"pass", "pwd", "secret", "token", "cookie", "credential", "private_key", "privatekey", "api_key", "apikey", "access_key"}

// harmless are settings of CouchDB 3.5.0 whose names only sound like a secret.
var harmless = []string{
	"chttpd_auth/password_scheme", "chttpd_auth/password_regexp",
	"couch_httpd_auth/password_scheme", "couch_httpd_auth/password_regexp",
	"chttpd_auth/allow_persistent_cookies", "couch_httpd_auth/allow_persistent_cookies",
	"chttpd_auth/cookie_domain", "couch_httpd_auth/cookie_domain",
}

func secretSetting(section, key, value string) bool {
	if value == "" {
		return false
	}
	if wholeSection(section) || hasURLPassword(value) {
		return true
	}
	return soundsSecret(key) && value != "true" && value != "false" && !slices.Contains(harmless, section+"/"+key)
}

func soundsSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(name, w) })
}

// hasURLPassword says whether a value holds a URL with user:password@.
func hasURLPassword(value string) bool {
	for {
		_, after, ok := strings.Cut(value, "://")
		if !ok {
			return false
		}
		authority := after
		if i := strings.IndexAny(after, "/?# \t,"); i >= 0 {
			authority = after[:i]
		}
		user, _, ok := strings.Cut(authority, "@")
		if ok && strings.Contains(user, ":") {
			return true
		}
		value = after
	}
}

// printable replaces what could end the comment that names a key, or make it
// look like a setting.
func printable(key string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '=' {
			return '?'
		}
		return r
	}, key)
}

// RedactVMArgs removes the secrets from a vm.args file: the words that follow
// -setcookie or an option whose name speaks of a secret, such as server_password
// of -ssl_dist_opt, and the word before. In comments, the rest of the line after
// such a name goes.
func RedactVMArgs(data []byte) (clean []byte, removed []string) {
	var b bytes.Buffer
	from := 0 // what stands before is written or removed
	words := vmWords(data)
	for i, w := range words {
		switch {
		case w.start < from:
		case w.comment:
			at := secretIn(w.text)
			if at < 0 {
				continue
			}
			b.Write(data[from : w.start+at])
			b.WriteString("(removed by Slipcover)")
			from = w.end
			removed = append(removed, strings.Fields(w.text[at:])[0]+" (not in use)")
		case soundsSecret(w.text):
			end := w.end
			if next := nextWord(words[i+1:]); next != nil && !strings.HasPrefix(next.text, "-") && !strings.HasPrefix(next.text, "+") {
				end = next.end
			}
			b.Write(data[from:w.start])
			// What follows on the line must not become part of a comment.
			b.WriteString("# a secret was removed by Slipcover: this backup is not encrypted\n")
			from = end
			removed = append(removed, flagName(w.text))
		}
	}
	b.Write(data[from:])
	return b.Bytes(), removed
}

// secretIn returns where in a comment the first word stands that speaks of a
// secret and is followed by something; -1 if none does.
func secretIn(comment string) int {
	for i := 0; i < len(comment); {
		for i < len(comment) && isSpace(comment[i]) {
			i++
		}
		end := i
		for end < len(comment) && !isSpace(comment[end]) {
			end++
		}
		word := strings.TrimLeft(comment[i:end], "#")
		if strings.HasPrefix(word, "-") && soundsSecret(word) && strings.TrimSpace(comment[end:]) != "" {
			return end - len(word)
		}
		i = end
	}
	return -1
}

func nextWord(words []word) *word {
	for i := range words {
		if !words[i].comment {
			return &words[i]
		}
	}
	return nil
}

// flagName is what is said of a word that was removed: all of it if it is the
// name of an option, else only that it was one.
func flagName(text string) string {
	if name, _, ok := strings.Cut(text, "="); ok {
		return name
	}
	if len(text) > 40 {
		return "a long argument"
	}
	return text
}

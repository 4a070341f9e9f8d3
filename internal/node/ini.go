package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Ini holds settings by section and key.
type Ini map[string]map[string]string

// Get returns a setting and whether it is there.
func (i Ini) Get(section, key string) (string, bool) {
	v, ok := i[section][key]
	return v, ok
}

// merge adds the settings of a later file, which win.
func (i Ini) merge(later Ini) {
	for section, keys := range later {
		if i[section] == nil {
			i[section] = map[string]string{}
		}
		maps.Copy(i[section], keys)
	}
}

// ParseIni reads an ini file as CouchDB does; what CouchDB skips is skipped, so
// there is no error. A section is "[name]". A setting is "key = value" or
// "key=value": the first " = " splits, else the first "=". A line that starts
// with ";" is a comment, and so is the rest of a line after a space or tab and
// ";". A setting without a value is skipped: it hides no earlier one. There are
// no continuation lines.
//
// That is CouchDB 3.4 and newer. Up to 3.3 a setting without a value removed an
// earlier one, and up to 3.2 an indented line without "=" continued the value
// before it.
//
// Source: CouchDB 3.5.0, src/config/src/config.erl, parse_ini and parse_fold.
func ParseIni(data []byte) Ini {
	ini := Ini{}
	eachLine(data, func(l line) {
		if l.key == "" || l.value == "" {
			return
		}
		if ini[l.section] == nil {
			ini[l.section] = map[string]string{}
		}
		ini[l.section][l.key] = l.value
	})
	return ini
}

// line is one line of an ini file.
type line struct {
	raw          []byte // without its end
	end          []byte // what ended it: "\n", "\r\n", "\r", 0x1a, or nothing
	section      string // that it stands in
	key, value   string // if it is a setting; the value is empty in "key="
	header       bool   // it is a valid section line
	continuation bool   // it is indented text without "=", see ParseIni
}

func eachLine(data []byte, f func(line)) {
	section := ""
	for len(data) > 0 {
		l := cutLine(&data)
		text := stripComment(l.raw)
		switch {
		case text == "":
		case text[0] == '[':
			if name, after, _ := strings.Cut(text[1:], "]"); name != "" && after == "" && strings.HasSuffix(text, "]") {
				section, l.header = name, true
			}
		case section == "":
		case strings.Contains(text, "="):
			l.key, l.value = cutSetting(text)
		default:
			l.continuation = l.raw[0] == ' ' || l.raw[0] == '\t'
		}
		l.section = section
		f(l)
	}
}

// cutLine takes the next line off data.
func cutLine(data *[]byte) line {
	d := *data
	i := bytes.IndexAny(d, "\r\n\x1a")
	if i < 0 {
		*data = nil
		return line{raw: d}
	}
	n := 1
	if d[i] == '\r' && i+1 < len(d) && d[i+1] == '\n' {
		n = 2
	}
	*data = d[i+n:]
	return line{raw: d[:i], end: d[i : i+n]}
}

// stripComment returns what stands before a comment, without space around it.
func stripComment(raw []byte) string {
	s := trim(string(raw))
	if strings.HasPrefix(s, ";") {
		return ""
	}
	for _, mark := range []string{" ;", "\t;"} {
		s, _, _ = strings.Cut(s, mark)
	}
	return trim(s)
}

// cutSetting splits a trimmed line that holds a "=". The key is empty if the
// line starts with it.
func cutSetting(text string) (key, value string) {
	key, value, ok := strings.Cut(text, " = ")
	if !ok {
		key, value, _ = strings.Cut(text, "=")
	}
	return trim(key), trim(value)
}

// trim cuts what Erlang's string:trim takes for space in a list of bytes.
func trim(s string) string {
	space := func(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' || c == 0x85 }
	for s != "" && space(s[0]) {
		s = s[1:]
	}
	for s != "" && space(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// chainOf returns the ini files of a configuration directory in CouchDB's order.
//
// Source: CouchDB 3.5.0, src/config/src/config_app.erl, default.
func chainOf(dir string) ([]string, error) {
	var parts []string
	for _, name := range []string{"default.ini", "default.d", "local.ini", "local.d"} {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			parts = append(parts, p)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return expandDirs(parts)
}

// expandDirs puts the *.ini files of a directory, sorted by name, in its place.
//
// Source: CouchDB 3.5.0, src/config/src/config.erl, expand_dirs.
func expandDirs(parts []string) ([]string, error) {
	var files []string
	for _, p := range parts {
		st, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			files = append(files, p)
			continue
		}
		entries, err := os.ReadDir(p) // sorted
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			file := filepath.Join(p, e.Name())
			if filepath.Ext(file) != ".ini" {
				continue
			}
			if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
				files = append(files, file)
			}
		}
	}
	return slices.Clip(files), nil
}

// readChain reads the files and merges what they say.
func readChain(ctx context.Context, files []string) (Ini, error) {
	all := Ini{}
	for _, f := range files {
		data, err := ReadConfig(ctx, f)
		if err != nil {
			return nil, err
		}
		all.merge(ParseIni(data))
	}
	return all, nil
}

const (
	configLimit   = 16 << 20              // bytes; CouchDB's default.ini has 42 kB
	settleTime    = 2 * time.Second       // a file younger than this may be in the making
	settlePause   = 20 * time.Millisecond // between two readings that must agree
	settleTimeout = 200 * settlePause     // then the last reading is taken as an error
)

// ReadConfig reads an ini file or vm.args whole. CouchDB rewrites its last ini
// file in place, so a reading may catch it empty or cut short; a file that
// changed just now is read until two readings agree.
//
// Source: CouchDB 3.5.0, src/config/src/config_writer.erl, save_to_file.
func ReadConfig(ctx context.Context, path string) ([]byte, error) {
	data, fresh, err := readOnce(path)
	for waited := time.Duration(0); err == nil && fresh; waited += settlePause {
		if waited >= settleTimeout {
			return nil, fmt.Errorf("%s keeps changing while it is read: try again", path)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settlePause):
		}
		before := data
		data, _, err = readOnce(path)
		if bytes.Equal(before, data) {
			break
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: run as root or as the user that CouchDB runs as", err)
	}
	return data, err
}

func readOnce(path string) (data []byte, fresh bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !st.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s is not a regular file", path)
	}
	data, err = io.ReadAll(io.LimitReader(f, configLimit+1))
	if err != nil {
		return nil, false, err
	}
	if len(data) > configLimit {
		return nil, false, fmt.Errorf("%s has more than %d bytes, which is no configuration file", path, configLimit)
	}
	return data, time.Since(st.ModTime()) < settleTime, nil
}

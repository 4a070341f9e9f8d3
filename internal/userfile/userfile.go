// Package userfile reads what people name and write: paths with a "~", and small files
// of text, such as keys, passwords and settings, as the editors of all systems save them.
package userfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// Limit is how many bytes a file may have.
const Limit = 1 << 20

// File is a small file.
type File struct {
	Path string
	Mode fs.FileMode
	Raw  []byte // as it is stored
	Text string // in UTF-8, without a byte order mark
	// Binary says that it is no text, in any encoding; Text is Raw then.
	Binary bool
}

// Read reads a file. Path may begin with "~".
func Read(path string) (*File, error) {
	path, err := Path(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, Limit+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > Limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, Limit)
	}
	text, ok := decode(raw)
	return &File{Path: path, Mode: st.Mode(), Raw: raw, Text: text, Binary: !ok}, nil
}

// ReadText is the text of a file, which must be one.
func ReadText(path string) (string, error) {
	f, err := Read(path)
	if err != nil {
		return "", err
	}
	return f.Text, f.check()
}

// ReadSecret is the text of a file without the ends of lines behind it, which must be
// something. Blanks stay: they may be meant.
func ReadSecret(path string) (string, error) {
	f, err := Read(path)
	if err != nil {
		return "", err
	}
	return f.Secret()
}

// Secret is ReadSecret of a file that was read.
func (f *File) Secret() (string, error) {
	if err := f.check(); err != nil {
		return "", err
	}
	line := strings.TrimRight(f.Text, "\r\n")
	if strings.TrimSpace(line) == "" {
		return "", fmt.Errorf("%s is empty: write the secret into it", f.Path)
	}
	return line, nil
}

func (f *File) check() error {
	if f.Binary {
		return fmt.Errorf("%s is not a text file: save it as UTF-8 text", f.Path)
	}
	return nil
}

// Decode returns b in UTF-8, without a byte order mark. Bytes that are neither UTF-16
// nor have such a mark stay as they are.
func Decode(b []byte) []byte {
	text, _ := decode(b)
	return []byte(text)
}

// decode knows UTF-8 with the mark that Notepad writes, and UTF-16 as PowerShell writes
// it, with a mark or, where the text begins with ASCII, without.
func decode(b []byte) (text string, ok bool) {
	for _, e := range []struct {
		mark  string
		order binary.ByteOrder
	}{{"\xff\xfe", binary.LittleEndian}, {"\xfe\xff", binary.BigEndian}} {
		ascii := 0 // where the 0 of the first character is
		if e.order == binary.LittleEndian {
			ascii = 1
		}
		rest, marked := bytes.CutPrefix(b, []byte(e.mark))
		if len(b)%2 != 0 || !marked && (len(b) < 2 || b[ascii] != 0 || b[1-ascii] == 0) {
			continue
		}
		units := make([]uint16, len(rest)/2)
		for i := range units {
			units[i] = e.order.Uint16(rest[2*i:])
		}
		if text := string(utf16.Decode(units)); !strings.ContainsAny(text, "\x00\ufffd") {
			return text, true
		}
	}
	text = string(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
	return text, !strings.Contains(text, "\x00")
}

// Path replaces "~" and "~name" at the start of a path by a home directory. A shell
// does so only where a word begins with it, and neither in --flag=~/x nor in files. A
// file whose name begins so is written ./~name.
func Path(p string) (string, error) {
	rest, ok := strings.CutPrefix(p, "~")
	if !ok {
		return p, nil
	}
	name, below := rest, ""
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < 0x80 && os.IsPathSeparator(uint8(r)) }); i >= 0 {
		name, below = rest[:i], rest[i+1:]
	}
	if name == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%s: there is no home directory for ~ (%w): write the path out", p, err)
		}
		return filepath.Join(home, below), nil
	}
	u, err := user.Lookup(name)
	if err != nil || u.HomeDir == "" {
		return "", fmt.Errorf("%s: there is no user %q here: write the path out, or ./%s for a file of that name", p, name, p)
	}
	return filepath.Join(u.HomeDir, below), nil
}

// Place is Path for what may be a URL: also file:~/x, file://~/x and file:///~/x are
// below the home directory. Other URLs stay as they are.
func Place(p string) (string, error) {
	rest, ok := strings.CutPrefix(p, "file:")
	if !ok {
		return Path(p)
	}
	rest = strings.TrimLeft(rest, "/")
	if !strings.HasPrefix(rest, "~") {
		return p, nil
	}
	return Path(rest)
}

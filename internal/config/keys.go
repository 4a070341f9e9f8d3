package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/userfile"
)

// Key describes one setting.
type Key struct {
	Name    string   // data_dir
	Default string   // as in the file; empty if there is no fixed one
	Example string   // to show where there is no fixed default
	Doc     string   // what it means
	Enum    []string // values allowed, if not all are
	Secret  bool     // not for flags, which others on the machine can see
	Bool    bool     // a flag without a value means true

	field    int
	path     bool // of a file or folder
	place    bool // of a repository: a URL or the path of a folder
	min, max int  // of a number
}

// Env is the environment variable of the setting: SLIPCOVER_DATA_DIR.
func (k Key) Env() string { return envPrefix + strings.ToUpper(k.Name) }

// Flag is the name of the setting's flag: data-dir.
func (k Key) Flag() string { return strings.ReplaceAll(k.Name, "_", "-") }

// Keys returns all settings in the order of Config.
func Keys() []Key { return slices.Clone(keys) }

var keys = readKeys()

// readKeys reads the tags of Config.
func readKeys() []Key {
	var list []Key
	for i, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		k := Key{
			Name: name, Default: f.Tag.Get("default"), Example: f.Tag.Get("example"), Doc: f.Tag.Get("doc"),
			Secret: f.Type == reflect.TypeFor[Secret](), Bool: f.Type.Kind() == reflect.Bool,
			field: i, path: f.Tag.Get("kind") == "path", place: f.Tag.Get("kind") == "place",
		}
		if f.Type.Kind() == reflect.Int {
			k.min, k.max = number(f.Tag.Get("min"), 0), number(f.Tag.Get("max"), math.MaxInt)
		}
		if enum := f.Tag.Get("enum"); enum != "" {
			k.Enum = strings.Split(enum, "|")
		}
		list = append(list, k)
	}
	return list
}

// number reads a number of a tag.
func number(tag string, otherwise int) int {
	if tag == "" {
		return otherwise
	}
	n, err := strconv.Atoi(tag)
	if err != nil {
		panic("config: a tag that is no number: " + err.Error())
	}
	return n
}

func findKey(name string) (Key, bool) {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
	if i < 0 {
		return Key{}, false
	}
	return keys[i], true
}

// value is what a file, a variable or a flag says of one setting.
type value struct {
	text   string
	list   []string // if the file says a list
	isList bool
	origin string // for messages
	dir    string // that a relative path is relative to
}

// set parses v into the field of k. The error says what to write instead, and
// nothing of a secret.
func (c *Config) set(k Key, v value) error {
	field := reflect.ValueOf(c).Elem().Field(k.field)
	if v.isList && field.Kind() != reflect.Slice {
		return fmt.Errorf("%s: %s takes one value, not a list", v.origin, k.Name)
	}
	fail := func(want string) error {
		return fmt.Errorf("%s: %s is %q, and must be %s", v.origin, k.Name, v.text, want)
	}
	switch p := field.Addr().Interface().(type) {
	case *Secret:
		*p = Secret(v.text)
	case *string:
		if k.Enum != nil && !slices.Contains(k.Enum, v.text) {
			return fail("one of " + strings.Join(k.Enum, ", "))
		}
		*p = v.text
		if k.place {
			place, err := userfile.Place(v.text)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", v.origin, k.Name, err)
			}
			*p = place
		}
		if k.path && v.text != "" {
			abs, err := absolute(v.text, v.dir)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", v.origin, k.Name, err)
			}
			*p = abs
		}
	case *bool:
		if v.text != "true" && v.text != "false" {
			return fail("true or false")
		}
		*p = v.text == "true"
	case *int:
		n, err := strconv.Atoi(v.text)
		if err != nil || n < k.min || n > k.max {
			return fail(fmt.Sprintf("a whole number from %d to %d", k.min, k.max))
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(v.text)
		if err != nil || d < 0 {
			return fail("a time such as 168h or 90m, or 0")
		}
		*p = d
	case *calendar.Span:
		span, err := calendar.ParseSpan(v.text)
		if err != nil {
			return fail("a time such as 12h, 30d, 2w or 1y6m, at most 100y, or 0")
		}
		*p = span
	case *TimeZone:
		zone, err := ParseTimeZone(v.text)
		if err != nil {
			return fail("UTC or a name of the time zone database such as Europe/Berlin")
		}
		*p = zone
	case *Bytes:
		n, err := ParseBytes(v.text)
		if err != nil {
			return fail("a size such as 64MiB or 500KB, or 0")
		}
		*p = n
	case *Rate:
		n, err := ParseRate(v.text)
		if err != nil {
			return fail("a rate such as 20MiB/s or 500KB/s, or 0")
		}
		*p = n
	case *[]string:
		*p = v.list
		if !v.isList {
			*p = strings.FieldsFunc(v.text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
		}
		for i := range *p {
			if !k.place {
				break
			}
			place, err := userfile.Place((*p)[i])
			if err != nil {
				return fmt.Errorf("%s: %s: %w", v.origin, k.Name, err)
			}
			(*p)[i] = place
		}
	default:
		panic(fmt.Sprintf("config: field of type %T", p)) // a field that nobody taught set to parse
	}
	return nil
}

package trove

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/words"
)

// maxBody is far more than any request needs, in bytes.
const maxBody = 1 << 20

// object is a JSON object of a request's body. The first thing that is wrong with it or
// with an object in it is kept in bad.
type object struct {
	at     string // its name in messages: "backup.restore_from"
	fields map[string]any
	bad    *error
}

// body reads the object under a key of the body, or for "" the body itself.
func (c *call) body(key string) (object, error) {
	var bad error
	whole := object{bad: &bad}
	text, err := api.Body(c.r, maxBody)
	if err != nil {
		return whole, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value any
	if err := api.Decode(d, &value); err != nil {
		return whole, err
	}
	fields, ok := value.(map[string]any)
	if !ok {
		return whole, api.Invalid("Validation error: the body must be a JSON object, not %s", kindOf(value))
	}
	whole.fields = fields
	if key == "" {
		return whole, nil
	}
	o := whole.object(key)
	if o.fields == nil {
		whole.wrong(key, "is required")
	}
	return o, bad
}

// err returns the first thing that is wrong.
func (o object) err() error { return *o.bad }

func (o object) wrong(key, what string) {
	if *o.bad == nil {
		*o.bad = api.Invalid("Validation error: %s %s", o.name(key), what)
	}
}

func (o object) name(key string) string {
	if o.at == "" {
		return key
	}
	return o.at + "." + key
}

// get returns a value, or false if it is absent or null.
func (o object) get(key string) (any, bool) {
	v := o.fields[key]
	return v, v != nil
}

// object returns the object of a key; its fields are nil if there is none.
func (o object) object(key string) object {
	in := object{at: o.name(key), bad: o.bad}
	v, ok := o.get(key)
	if !ok {
		return in
	}
	if in.fields, ok = v.(map[string]any); !ok {
		o.wrong(key, "must be an object, not "+kindOf(v))
	}
	return in
}

// text returns a string of at most 255 characters, none of which controls anything, or ""
// if there is none.
func (o object) text(key string) string {
	s := o.lines(key)
	if !words.IsLine(s) { // which lines has not said of line ends
		o.wrong(key, "must be one line")
	}
	return s
}

// lines is text, which may have several lines.
func (o object) lines(key string) string {
	v, ok := o.get(key)
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		o.wrong(key, "must be a string, not "+kindOf(v))
	}
	if utf8.RuneCountInString(s) > 255 {
		o.wrong(key, "must have at most 255 characters")
	}
	if !words.IsText(s) {
		o.wrong(key, "must have no control characters")
	}
	return s
}

// label returns a name, of 1 to 255 characters with a letter or digit among them, or if it
// isn't needed a description, which may also be "" and have several lines.
func (o object) label(key string, needed bool) string {
	v, ok := o.get(key)
	if !ok {
		if needed {
			o.wrong(key, "is required")
		}
		return ""
	}
	s := o.lines(key)
	if needed {
		s = o.text(key)
	}
	if _, ok := v.(string); ok && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
		o.wrong(key, "must be 1 to 255 characters with a letter or a digit among them")
	}
	return s
}

// id returns a UUID, or "" if there is none and needed is false.
func (o object) id(key string, needed bool) string {
	s := o.text(key)
	if _, ok := o.get(key); !ok {
		if needed {
			o.wrong(key, "is required")
		}
		return ""
	}
	id, ok := api.ParseID(s)
	if !ok {
		o.wrong(key, "must be a UUID")
	}
	return id
}

// number returns a whole number from low to high, which may come as text, or false if
// there is none.
func (o object) number(key string, low, high int) (int, bool) {
	v, ok := o.get(key)
	if !ok {
		return 0, false
	}
	var text string
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		o.wrong(key, fmt.Sprintf("must be a whole number from %d to %d", low, high))
		return 0, false
	}
	return n, true
}

// amount checks that a value, if there is one, is a number that isn't negative.
func (o object) amount(key string) {
	v, ok := o.get(key)
	if n, is := v.(json.Number); ok && (!is || strings.HasPrefix(n.String(), "-")) {
		o.wrong(key, "must be a number from 0 on")
	}
}

// flag returns a truth value, which may be 0 or 1.
func (o object) flag(key string) bool {
	v, ok := o.get(key)
	if !ok {
		return false
	}
	switch v := v.(type) {
	case bool:
		return v
	case json.Number:
		if v == "0" || v == "1" {
			return v == "1"
		}
	}
	o.wrong(key, "must be 0 or 1, or true or false")
	return false
}

// last returns what a string, number or the path of a URL ends in; "" if there is none.
func (o object) last(key string) string {
	v, _ := o.get(key)
	if n, ok := v.(json.Number); ok {
		return n.String()
	}
	s := o.text(key)
	if u, err := url.Parse(s); err == nil && strings.Contains(s, "/") {
		return path.Base(u.Path)
	}
	return s
}

// none refuses what would be made of a key if it were not for CouchDB: anything but
// null, false, 0 and what is empty.
func (o object) none(key, message string) error {
	switch v := o.fields[key].(type) {
	case nil:
		return nil
	case bool:
		if !v {
			return nil
		}
	case json.Number:
		if v == "0" {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	case []any:
		if len(v) == 0 {
			return nil
		}
	case map[string]any:
		if len(v) == 0 {
			return nil
		}
	}
	return api.Refuse(http.StatusNotImplemented, message)
}

// one returns the only one of the known keys that is there.
func (o object) one(known ...string) (string, error) {
	var found []string
	for _, key := range known {
		if _, ok := o.fields[key]; ok {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", api.Invalid("Invalid action: use one of %s.", strings.Join(known, ", "))
	}
	slices.Sort(found)
	return "", api.Invalid("The body asks for several actions: %s.", strings.Join(found, ", "))
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a truth value"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	}
	return "an object"
}

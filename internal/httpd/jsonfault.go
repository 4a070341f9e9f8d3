package httpd

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
)

// JSONFault says what is wrong with a JSON text that could not be read into a value, in a
// sentence without its full stop for who sent it. The text is called what. Package json
// speaks to programmers: of types and fields of Go, which are nobody's business outside.
func JSONFault(what string, err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind) && field(kind) == "":
		return what + " must be " + wanted(kind.Type) + ", not " + given(kind.Value)
	case errors.As(err, &kind):
		return field(kind) + " must be " + wanted(kind.Type) + ", not " + given(kind.Value)
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Sprintf("%s is not JSON: %s", what, err)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Sprintf("%s has an unknown field %.100s", what, name)
	}
	return what + " has a value of the wrong form"
}

// field is the path of a field, without structs that are embedded: those have Go's names,
// with capitals, and our fields have none.
func field(kind *json.UnmarshalTypeError) string {
	var path []string
	for name := range strings.SplitSeq(kind.Field, ".") {
		if !strings.ContainsFunc(name, unicode.IsUpper) {
			path = append(path, name)
		}
	}
	return strings.Join(path, ".")
}

var textual = reflect.TypeFor[encoding.TextUnmarshaler]()

func wanted(t reflect.Type) string {
	if reflect.PointerTo(t).Implements(textual) {
		return "text"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a JSON object"
	}
	return "a whole number" // of the size that there is room for
}

// given is what package json calls a value, such as "number 1.5".
func given(value string) string {
	kind, text, _ := strings.Cut(value, " ")
	switch kind {
	case "bool":
		return "true or false"
	case "string":
		return "text"
	case "array":
		return "a list"
	case "object":
		return "an object"
	}
	if text != "" {
		return fmt.Sprintf("%.40s", text)
	}
	return "a " + kind
}

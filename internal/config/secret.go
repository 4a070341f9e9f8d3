package config

import (
	"fmt"
	"log/slog"
)

// Secret is a password or passphrase. Whatever prints, logs or encodes it shows
// "***", or nothing if it is empty; only Reveal returns it.
//
// Package fmt doesn't call the methods of a value that it reaches through an unexported
// field, nor of what it prints to say that a verb is wrong: %p or %w of a Secret, or
// anything but %v and %+v of a struct with a pointer to a struct with one. So keep it in
// exported fields, and give what holds one and is passed on by pointer a Format of its
// own, as access.Caller has. It is no key of a map that becomes JSON.
type Secret string

const hidden = "***"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "***", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString is String for %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// Format is String for all verbs, so that %x shows nothing either.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	_, _ = f.Write([]byte(text)) // as fmt itself, which has no way to say that it failed
}

// LogValue is String for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String for encoders of text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON is String in JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(s.GoString()), nil }

// MarshalYAML is String in YAML.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

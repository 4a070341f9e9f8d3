package config

import (
	"errors"
	"time"
	_ "time/tzdata" // the time zones, for machines that have no database of them
)

// TimeZone is a time zone that has the same name and rules on every machine.
type TimeZone struct{ *time.Location }

// ParseTimeZone takes UTC or a name of the time zone database. "Local" is none:
// two machines that apply one policy would differ.
func ParseTimeZone(name string) (TimeZone, error) {
	if name == "" || name == "Local" {
		return TimeZone{}, errors.New("not the name of a time zone")
	}
	l, err := time.LoadLocation(name)
	return TimeZone{l}, err
}

// MarshalText is the name, for encoders of text and JSON.
func (z TimeZone) MarshalText() ([]byte, error) { return []byte(z.String()), nil }

package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a number of bytes, written as 64MiB, 500KB or 4096. Units of 1000 are
// KB, MB, GB and TB, those of 1024 KiB, MiB, GiB and TiB.
type Bytes int64

// Rate is a number of bytes per second, written as 20MiB/s; 0 is no limit.
type Rate int64

// units begin with the largest, so that String finds the shortest text.
var units = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40}, {"TB", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
}

// ParseBytes reads a number of bytes. The number may have a fraction, the unit any
// case, and there may be blanks between them; without a unit it is bytes.
func ParseBytes(text string) (Bytes, error) {
	bad := fmt.Errorf("%q is not a size such as 64MiB, 500KB or 0", text)
	number := strings.TrimRight(text, "KMGTkmgtiIbB")
	f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || strings.ContainsAny(number, "+-eExX_nN") {
		return 0, bad
	}
	unit := text[len(number):]
	if unit == "" {
		unit = "B"
	}
	for _, u := range units {
		if strings.EqualFold(u.name, unit) {
			if f *= float64(u.size); f >= math.MaxInt64 {
				return 0, bad
			}
			return Bytes(f), nil
		}
	}
	return 0, bad
}

// ParseRate reads a number of bytes with "/s" behind it; 0 needs none.
func ParseRate(text string) (Rate, error) {
	size, ok := strings.CutSuffix(text, "/s")
	b, err := ParseBytes(size)
	if err != nil || !ok && b != 0 {
		return 0, fmt.Errorf("%q is not a rate such as 20MiB/s, 500KB/s or 0", text)
	}
	return Rate(b), nil
}

// String writes b exactly, with the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range units {
		if b != 0 && u.size > 1 && int64(b)%u.size == 0 {
			return fmt.Sprintf("%d%s", int64(b)/u.size, u.name)
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// String writes r so that ParseRate reads it.
func (r Rate) String() string {
	if r == 0 {
		return "0"
	}
	return Bytes(r).String() + "/s"
}

// MarshalText writes b as String does.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// MarshalText writes r as String does.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

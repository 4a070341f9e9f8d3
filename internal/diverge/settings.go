package diverge

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strconv"

	"github.com/slipcover/slipcover/couchfile"
)

// settings compares what holds for the database as a whole.
func (c *comparison) settings(ctx context.Context) error {
	for _, s := range []struct {
		name, part string
		read       func(*couchfile.DB) (json.RawMessage, error)
	}{
		{"security", PartSecurity, (*couchfile.DB).Security},
		{"props", PartProps, (*couchfile.DB).Props},
		{"revs_limit", "", number(func(h couchfile.Header) uint64 { return h.RevsLimit })},
		{"purge_infos_limit", "", number(func(h couchfile.Header) uint64 { return h.PurgeInfosLimit })},
	} {
		out := Setting{Name: s.name}
		var first any
		some, differs := false, false
		for i := range c.copies {
			text, err := s.read(c.copies[i].DB)
			value, ok := decode(text)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil || !ok {
				c.damage(i, Damage{Part: s.part, Error: errorText(err)})
				out.Values = append(out.Values, nil)
				continue
			}
			out.Values = append(out.Values, text)
			differs = differs || some && !reflect.DeepEqual(first, value)
			first, some = value, true
		}
		if differs {
			c.report.Settings = append(c.report.Settings, out)
		}
	}
	return nil
}

func errorText(err error) string {
	if err == nil {
		return "not JSON"
	}
	return err.Error()
}

func number(of func(couchfile.Header) uint64) func(*couchfile.DB) (json.RawMessage, error) {
	return func(db *couchfile.DB) (json.RawMessage, error) {
		return strconv.AppendUint(nil, of(db.Header()), 10), nil
	}
}

// decode reads JSON without changing numbers.
func decode(text []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return v, d.Decode(&v) == nil
}

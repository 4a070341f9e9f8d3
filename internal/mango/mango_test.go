package mango_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
)

// Regular expressions mean what they mean to Erlang's re: testdata/regex.json has expressions, texts, and for each text 1 if OTP 25 found a
// match and 0 if it didn't, or E if it refused the expression.
func TestRegex(t *testing.T) {
	b, err := os.ReadFile("testdata/regex.json")
	if err != nil {
		t.Fatal(err)
	}
	seen, refused := 0, 0
	for _, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		c := parse(t, line).(ejson.Array)
		want := c[2].(string)
		s, err := mango.Parse(o("a", o("$regex", c[0])))
		var e *mango.Error
		if errors.As(err, &e) && e.Name == "not_supported" {
			refused++
			continue
		}
		seen++
		got := ""
		if err != nil {
			got = "E"
		} else {
			for _, text := range c[1].(ejson.Array) {
				ok, err := s.Match(o("a", text))
				if err != nil {
					t.Fatal(err)
				}
				got += map[bool]string{true: "1", false: "0"}[ok]
			}
		}
		if got != want {
			t.Errorf("%q of %q: %s, want %s", c[0], c[1], got, want)
		}
	}
	if seen < 1500 || refused > 20 {
		t.Errorf("%d expressions, and %d refused", seen, refused)
	}
}

// What takes too long doesn't match, as with PCRE's limits, and a selector gets only so much of it.
func TestRegexTime(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a", 60) + "b"
	for _, re := range []string{`^(a+)+$`, `^(a|aa)+$`, `^(a*)*c`, `(a?){60}a{60}c`, strings.Repeat("(", 100) + "a" + strings.Repeat("+)", 100) + "c"} {
		s, err := mango.Parse(o("a", o("$regex", re)))
		if err != nil {
			t.Errorf("%s: %v", re, err)
			continue
		}
		start := time.Now()
		if ok, err := s.Match(o("a", text)); ok || err != nil {
			t.Errorf("%s: %v, %v", re, ok, err)
		}
		if took := time.Since(start); took > time.Minute { // without a bound it is years, and a machine may stand still
			t.Errorf("%s: %v", re, took)
		}
	}
}

func TestFilter(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":{"$foo":1}}`: "bad_request: Invalid operator: $foo",
		`5`:                "bad_request: Selector error: expected a JSON object",
		`null`:             "bad_request: Selector error: expected a JSON object",
		`{"":1}`:           "bad_request: One or more conditions is missing a field name.",
	} {
		if _, err := mango.ParseFilter(parse(t, []byte(in))); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	s, err := mango.ParseFilter(parse(t, []byte(`{"a":{"$gt":1}}`)))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Match(parse(t, []byte(`{"a":2}`))); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

// A partition narrows the scan, in both directions.
func TestPartition(t *testing.T) {
	for in, want := range map[string][2]string{
		`{"selector":{},"partition":"p"}`:                                          {`"p:"`, `"p;"`},
		`{"selector":{"_id":{"$gt":"p:5"}},"partition":"p"}`:                       {`"p:5"`, `"p;"`},
		`{"selector":{"_id":{"$gt":"a"}},"partition":"p","sort":[{"_id":"desc"}]}`: {`"p;"`, `"p:"`},
	} {
		options, err := mango.ParseOptions(parse(t, []byte(in)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := options.Find(true)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]string{ejson.String(c.Scan.Start), ejson.String(c.Scan.End)}; got != want {
			t.Errorf("%s: %v, want %v", in, got, want)
		}
	}
	options, err := mango.ParseOptions(parse(t, []byte(`{"selector":{"a":1},"sort":["a"]}`)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := options.Find(true); err == nil || !strings.Contains(err.Error(), "No global index exists for this sort") {
		t.Error(err)
	}
}

func TestBookmark(t *testing.T) {
	for _, id := range []string{"", "a", "é", strings.Repeat("x", 300), "\u0001"} {
		b := mango.EncodeBookmark(id)
		if got, err := mango.DecodeBookmark(b); err != nil || got != id {
			t.Errorf("%q: %v, %v", id, got, err)
		}
	}
	// Of a CouchDB 3.5.0.
	if got, err := mango.DecodeBookmark("g1AAAAA0eJzLYWBgYMpgSmHgKy5JLCrJTq2MT8lPzkzJBYmnGINkOGAyULEsAGk2Dec"); err != nil || got != "d3" {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"x", "nil", "g1AAAAA0", "g2o", "g1D_____eJwDAAAAAAE", "gw"} {
		if got, err := mango.DecodeBookmark(s); err == nil {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func FuzzSelector(f *testing.F) {
	f.Add([]byte(`{"a":{"$elemMatch":{"$gt":1,"b":{"$regex":"^(?i)[a-z]+$"}}},"$nor":[{"b.c":{"$in":[1,"x"]}},{"_id":{"$beginsWith":"é"}}]}`), []byte(`{"_id":"é1","a":[{"b":"X"},2],"b":{"c":"x"}}`))
	f.Add([]byte(`{"$not":{"$and":[{"a":{"$mod":[3,0]}},{"a":{"$size":1}},{"x":{"$keyMapMatch":{"$eq":"k"}}}]}}`), []byte(`{"a":3,"x":{"k":1}}`))
	f.Fuzz(func(t *testing.T, selector, doc []byte) {
		if len(selector)+len(doc) > 2000 || bytes.Count(selector, []byte("$regex")) > 2 {
			return
		}
		v, err := ejson.Parse(selector)
		if err != nil {
			return
		}
		d, err := ejson.Parse(doc)
		if err != nil {
			return
		}
		s, err := mango.Parse(v)
		var e *mango.Error
		if err != nil {
			if !errors.As(err, &e) || e.Status/100 < 4 {
				t.Fatal(err)
			}
			return
		}
		ok, err := s.Match(d)
		if err != nil && !errors.As(err, &e) {
			t.Fatal(err)
		}
		// What is normalized stays as it is, and means the same.
		again, err2 := mango.Parse(s.JSON())
		if err2 != nil {
			t.Fatalf("%s: %v", ejson.String(s.JSON()), err2)
		}
		if a, b := ejson.String(s.JSON()), ejson.String(again.JSON()); a != b {
			t.Fatalf("%s became %s", a, b)
		}
		if ok2, err3 := again.Match(d); ok2 != ok || (err3 == nil) != (err == nil) {
			t.Fatalf("%v, %v and then %v, %v", ok, err, ok2, err3)
		}
	})
}

func FuzzFind(f *testing.F) {
	f.Add([]byte(`{"selector":{"_id":{"$gt":"a","$lt":"c"}},"fields":["a.b","a.0"],"sort":[{"_id":"desc"}],"limit":2,"skip":1,"bookmark":"g1AAAAA0eJzLYWBgYMpgSmHgKy5JLCrJTq2MT8lPzkzJBYmnGINkOGAyULEsAGk2Dec"}`), []byte(`{"_id":"b","a":[{"b":1}]}`))
	f.Fuzz(func(t *testing.T, body, doc []byte) {
		if len(body)+len(doc) > 2000 || bytes.Count(body, []byte("$regex")) > 2 {
			return
		}
		v, err := ejson.Parse(body)
		if err != nil {
			return
		}
		d, err := ejson.Parse(doc)
		if err != nil {
			return
		}
		document, ok := d.(ejson.Object)
		if id, _ := document.Get("_id"); !ok {
			return
		} else if _, ok := id.(string); !ok {
			return
		}
		a := ours(v, []ejson.Object{document}, false)
		for _, s := range []string{a.find, a.explain} {
			if _, err := ejson.Parse([]byte(s[4:])); err != nil {
				t.Fatalf("%q: %v", s, err)
			}
		}
	})
}

package serve_test

import (
	"encoding/json"
	"testing"

	"github.com/slipcover/slipcover/internal/serve"
)

func TestDiff(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"the same":  {`{"_id":"a","n":1.0,"l":[1,{"x":null}]}`, `{"n":1.0,"_id":"a","l":[1,{"x":null}]}`, `null`},
		"a value":   {`{"n":1,"m":{"a/b":"x"}}`, `{"n":1.0,"m":{"a/b":"y"}}`, `[{"path":"/m/a~1b","from":"x","to":"y"},{"path":"/n","from":1,"to":1.0}]`},
		"null":      {`{"n":null}`, `{"n":0}`, `[{"path":"/n","to":0}]`},
		"members":   {`{"old":1}`, `{"new":[2]}`, `[{"path":"/new","to":[2],"added":true},{"path":"/old","from":1,"removed":true}]`},
		"a list":    {`{"l":[1,2,3]}`, `{"l":[1,5]}`, `[{"path":"/l/1","from":2,"to":5},{"path":"/l/2","from":3,"removed":true}]`},
		"kinds":     {`{"l":[1]}`, `{"l":{"0":1}}`, `[{"path":"/l","from":[1],"to":{"0":1}}]`},
		"big":       {`{"n":12345678901234567890}`, `{"n":12345678901234567891}`, `[{"path":"/n","from":12345678901234567890,"to":12345678901234567891}]`},
		"revpos":    {`{"_attachments":{"a":{"content_type":"t","revpos":1,"digest":"d","length":3,"stub":true}}}`, `{"_attachments":{"a":{"content_type":"t","revpos":2,"digest":"d","length":3,"stub":true}}}`, `null`},
		"digest":    {`{"_attachments":{"a":{"content_type":"t","revpos":1,"digest":"d","length":3,"stub":true}}}`, `{"_attachments":{"a":{"content_type":"t","revpos":2,"digest":"e","length":3,"stub":true}}}`, `[{"path":"/_attachments/a/digest","from":"d","to":"e"}]`},
		"not there": {``, `{"a":1}`, `[{"path":"/a","to":1,"added":true}]`},
		"neither":   {``, ``, `null`},
	} {
		var from, to []byte
		if c.from != "" {
			from = []byte(c.from)
		}
		if c.to != "" {
			to = []byte(c.to)
		}
		got, err := serve.Diff(from, to)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := json.Marshal(got)
		if err != nil || string(text) != c.want {
			t.Errorf("%s: %s, want %s (%v)", name, text, c.want, err)
		}
	}
	if _, err := serve.Diff([]byte("[]"), nil); err == nil {
		t.Error("a list is no document")
	}
}

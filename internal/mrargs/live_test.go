package mrargs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/testenv"
)

var argNames = strings.Fields(`key keys startkey start_key endkey end_key startkey_docid start_key_doc_id endkey_docid end_key_doc_id limit skip
	group_level reduce group stale stable update descending inclusive_end include_docs attachments att_encoding_info update_seq conflicts
	sorted partition unknown`)

// argValues fit or don't. Ranges of keys are never upside down.
var argValues = strings.Fields(`true false TRUE ok update_after lazy 0 1 +2 -1 -0 01 99999999999999999999 x "x" "true" [1] [] ["x","x"] ["x"] {} null 1.5 1e10 a:b _a %C3%A4 %C4%80 "\" %`)

// Of random arguments the server has the same to say.
func TestLiveErrors(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{})
	design := func(parted bool) map[string]any {
		return map[string]any{"options": map[string]any{"partitioned": parted}, "views": map[string]any{
			"map": map[string]any{"map": "function(d) {}"}, "reduce": map[string]any{"map": "function(d) {}", "reduce": "_count"}}}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(couch.Put("/plain", nil, nil))
	must(couch.Put("/parted?partitioned=true", nil, nil))
	must(couch.Put("/plain/_design/d", design(false), nil))
	must(couch.Put("/parted/_design/d", design(true), nil))
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	compared, wrong := 0, 0
	for range testenv.Rounds(1500) {
		db := []string{"plain", "parted"}[rnd.IntN(2)]
		path := []string{"_all_docs", "_design_docs", "_design/d/_view/map", "_design/d/_view/reduce"}[rnd.IntN(4)]
		var query []string
		for range rnd.IntN(3) {
			value := argValues[rnd.IntN(len(argValues))]
			if !strings.Contains(value, "%C") {
				value = url.QueryEscape(value)
			}
			query = append(query, argNames[rnd.IntN(len(argNames))]+"="+value)
		}
		body, queries := "", rnd.IntN(4) == 0
		if queries || rnd.IntN(2) == 0 {
			body = randomBody(rnd)
			if queries {
				body = `{"queries":[` + body + `]}`
			}
		}
		raw := strings.Join(query, "&")
		status, name, reason := ask(t, couch, db, path, raw, body, queries)
		if strings.HasPrefix(reason, "No rows can match your key range") || status == 500 || name == "illegal_docid" { // found while rows are
			continue
		}
		compared++
		var want *mrargs.Error
		if status != 200 {
			wrong++
			want = &mrargs.Error{Status: status, Name: name, Reason: reason}
		}
		got := ours(t, db, path, raw, body, queries)
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("seed %d: %s/%s?%s %s: %v, the server says %v", seed, db, path, raw, body, got, want)
		}
	}
	if compared < 1000 || wrong < 300 || wrong == compared {
		t.Errorf("%d answers were compared, %d of them errors", compared, wrong)
	}
}

func randomBody(rnd *rand.Rand) string {
	var o ejson.Object
	for range rnd.IntN(3) {
		text := argValues[rnd.IntN(len(argValues))]
		v, err := ejson.Parse([]byte(text))
		if err != nil {
			v = text
		}
		o.Set(argNames[rnd.IntN(len(argNames))], v)
	}
	if len(o) == 0 {
		return "{}"
	}
	return ejson.String(o)
}

func ask(t *testing.T, couch *testenv.Couch, db, path, query, body string, queries bool) (status int, name, reason string) {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	if queries {
		path += "/queries"
	}
	req, err := http.NewRequestWithContext(t.Context(), method, couch.URL+"/"+db+"/"+path+"?"+query, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // an error behind the first rows leaves bytes on the connection
	req.SetBasicAuth(couch.Admin, couch.Password)
	req.Header.Set("Content-Type", "application/json")
	resp, err := couch.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Error, Reason string }
	if json.Unmarshal(b, &answer) != nil && resp.StatusCode == 200 {
		return 200, "", string(b) // an error within rows isn't one of arguments
	}
	if resp.StatusCode == 200 && answer.Error != "" {
		return 500, answer.Error, answer.Reason
	}
	return resp.StatusCode, answer.Error, answer.Reason
}

func ours(t *testing.T, db, path, query, body string, queries bool) *mrargs.Error {
	t.Helper()
	var b ejson.Value
	if body != "" {
		var err error
		if b, err = ejson.Parse([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(a *mrargs.Args) error {
		if !strings.HasPrefix(path, "_design/") {
			return a.CheckAllDocs(db == "parted")
		}
		if strings.HasSuffix(path, "/reduce") && (a.Reduce == nil || *a.Reduce) {
			a.Kind = mrargs.Reduce
		}
		return a.CheckView(db == "parted")
	}
	q := mrargs.ParseQuery(query)
	read := mrargs.ForView
	if !strings.HasPrefix(path, "_design/") {
		read = mrargs.ForAllDocs
	}
	var err error
	if queries {
		_, err = mrargs.ForQueries(q, b, check)
	} else {
		var a *mrargs.Args
		if a, err = read(q, b, body != ""); err == nil {
			err = check(a)
		}
	}
	var e *mrargs.Error
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e
}

package admin_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
)

// FuzzRequest sends whole requests. AGENT, INSTANCE and SCHEDULE in them stand for ids
// that are there. Whatever comes, nothing panics, the answer is JSON, a refusal has our
// form, and the fault is never ours.
func FuzzRequest(f *testing.F) {
	w := newWorld(f)
	tokens := []string{w.Token(project, access.Admin), w.Token(project, access.Operator), w.Token(project, access.Viewer), ""}
	n := newNode(f)
	w.into(w.do("POST", "/join", "", n.request(w.joinToken(tokens[0], "db1"))), 201, "", n)
	var s schedule
	w.into(w.do("POST", "/schedules", tokens[1], `{"instance":"db1","name":"nightly","cron":"@daily"}`), 201, "schedule", &s)
	ids := strings.NewReplacer("AGENT", n.AgentID, "INSTANCE", n.Instance, "SCHEDULE", s.ID)
	handler := w.HTTP.Config.Handler

	for pattern := range admin.Needs() {
		method, path, _ := strings.Cut(pattern, " ")
		f.Add(method, strings.Replace(path, "{id}", "SCHEDULE", 1), "{}", uint8(0))
	}
	for _, c := range []struct{ method, target, body string }{
		{"POST", "/tokens", `{"name":"n","role":"viewer","project":"p","expires_in":"90d"}`},
		{"DELETE", "/tokens/abcdefghijkl?project=p", ""},
		{"POST", "/join-tokens", `{"name":"db2","project":"acme","expires_in":"1h30m"}`},
		{"POST", "/join", n.request("slj_abcdefghijkl_abcdefghijklmnopqrstuvwxyz")},
		{"POST", "/schedules", `{"instance":"INSTANCE","name":"n","enabled":true,"cron":"*/5 1-3 * * mon","time_zone":"Europe/Berlin","jitter":"15m","window":"2h","catch_up":true,"keep":{"last":1,"hourly":2,"daily":3,"weekly":4,"monthly":5,"yearly":6,"within":"1y6m"},"prove_cron":"@weekly","heartbeat":"https://h/p"}`},
		{"PATCH", "/schedules/SCHEDULE", `{"cron":5}`}, {"POST", "/schedules", `{"keep":{"last":"x"}}`},
		{"PATCH", "/schedules/SCHEDULE", `{"keep":{"last":1e9,"within":"30d"},"jitter":null,"heartbeat":""}`},
		{"GET", "/schedules?instance=db1&project=acme", ""},
		{"GET", "/../v1/whoami", ""}, {"GET", "/schedules/%2e%2e%2f%00", ""}, {"OPTIONS", "/tokens", ""},
		{"DELETE", "/agents/AGENT", ""},
	} {
		for role := range uint8(4) {
			f.Add(c.method, c.target, c.body, role)
		}
	}
	f.Fuzz(func(t *testing.T, method, target, body string, role uint8) {
		body = ids.Replace(body)
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(fmt.Sprintf(
			"%s /slipcover/v1%s HTTP/1.1\r\nHost: h\r\nX-Auth-Token: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			method, ids.Replace(target), tokens[role%4], len(body), body))))
		if err != nil {
			t.Skip() // net/http answers these
		}
		r = r.WithContext(t.Context())
		r.RemoteAddr = "127.0.0.1:1"
		got := httptest.NewRecorder()
		handler.ServeHTTP(got, r)
		text := got.Body.Bytes()
		switch {
		case got.Code >= 500 && got.Code != 501 && got.Code != 503:
			t.Fatalf("%s %q %q: got %d %s", method, target, body, got.Code, text)
		case got.Code >= 300:
			var e struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal(text, &e); err != nil || e.Error.Code == "" || e.Error.Message == "" {
				t.Fatalf("%s %q: not our form: %d %q, %v", method, target, got.Code, text, err)
			}
			for _, ours := range []string{"unmarshal", "Go struct", "json:", "scheduleFields", "UnmarshalJSON"} {
				if strings.Contains(e.Error.Message, ours) && !strings.Contains(body+target, ours) {
					t.Fatalf("%s %q %q: it speaks of our types: %s", method, target, body, text)
				}
			}
		case len(text) > 0 && !json.Valid(text):
			t.Fatalf("%s %q: not JSON: %d %q", method, target, got.Code, text)
		}
	})
}

func FuzzLength(f *testing.F) {
	for _, text := range []string{"15m", "1h30m", "30d", "1y2w3d", "0", "1.5h", "-1s", "1us"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var l, again admin.Length
		if l.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(l.String())); err != nil || l < 0 || again != l {
			t.Errorf("%q reads as %s, which reads back as %s, %v", text, l, again, err)
		}
	})
}

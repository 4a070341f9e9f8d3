package trove_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/trove"
)

// FuzzRequest sends whole requests. INSTANCE and BACKUP in them stand for ids that are
// there. Whatever comes, nothing panics, the answer is JSON, a refusal has Trove's form,
// and the fault is never ours.
func FuzzRequest(f *testing.F) {
	var handler http.Handler
	w := newWorld(f, func(_ *server.Config, o *trove.Options) { o.URL = "" })
	p := w.join("db1", project)
	close(p.free)
	tokens := []string{w.Token(project, access.Admin), w.Token(project, access.Operator), w.Token(project, access.Viewer), ""}
	handler = w.HTTP.Config.Handler
	var b struct{ ID string }
	w.into(w.do("POST", "/v1.0/"+project+"/backups", tokens[1], `{"backup": {"name": "n", "instance": "`+p.instance+`"}}`), 202, "backup", &b)
	ids := strings.NewReplacer("INSTANCE", p.instance, "BACKUP", b.ID)

	for pattern := range trove.Needs() {
		method, path, _ := strings.Cut(pattern, " ")
		f.Add(method, "/v1.0/acme"+strings.NewReplacer("{id}", "INSTANCE", "{datastore}", "couchdb", "{version}", "3.5").Replace(path), "Accept", "application/json", "{}", uint8(0))
	}
	const kind, js = "Content-Type", "application/json"
	for _, c := range []struct{ method, target, header, value, body string }{
		{"GET", "/", "", "", ""}, {"GET", "/v1.0/", "Accept", "application/vnd.openstack.trove+json; version=1.0", ""},
		{"GET", "/auth/v1.0", "X-Auth-Key", "k", ""}, {"GET", "/v1.0/acme/backups/BACKUP", "", "", ""},
		{"GET", "/v1.0/acme/backups?limit=2&marker=1&datastore=couchdb&instance_id=INSTANCE&all_projects=True&project_id=acme", "", "", ""},
		{"GET", "/v1.0/acme/mgmt/instances?deleted=False&limit=1&marker=0", "", "", ""},
		{"GET", "/v1.0/acme/../acme/backups", "", "", ""}, {"GET", "/v1.0/acme/%2e%2e/%2f%00", "", "", ""}, {"GET", "//v1.0", "", "", ""}, {"OPTIONS", "*", "", "", ""},
		{"POST", "/v1.0/acme/backups", kind, js, `{"backup": {"name": "n", "instance": "INSTANCE", "incremental": 1, "description": "d", "parent_id": "BACKUP", "swift_container": "c"}}`},
		{"POST", "/v1.0/acme/backups", kind, js, `{"backup": {"name": "n", "restore_from": {"remote_location": "http://h/v1/AUTH_a/c/o", "local_datastore_version_id": "v", "size": 1}}}`},
		{"POST", "/v1.0/acme/instances", kind, js, `{"instance": {"name": "r", "flavorRef": 1, "volume": {"size": 2, "type": null}, "restorePoint": {"backupRef": "BACKUP"}, "datastore": {"type": "couchdb", "version": "3.5"}, "access": {"is_public": false}, "availability_zone": "db1"}}`},
		{"PUT", "/v1.0/acme/instances/INSTANCE", kind, js, `{"instance": {"name": "N"}}`},
		{"POST", "/v1.0/acme/instances/INSTANCE/action", kind, js, `{"restart": {}}`},
		{"POST", "/v1.0/acme/instances/INSTANCE/action", kind, js, `{"reset_status": {}}`},
		{"POST", "/v1.0/acme/mgmt/instances/INSTANCE/action", kind, js, `{"reset-task-status": {}}`},
		{"PUT", "/v1.0/acme/mgmt/quotas/acme", kind, js, `{"quotas": {"backups": 60, "instances": "5", "volumes": -1}}`},
		{"POST", "/v1.0/acme/backup_strategies", kind, js, `{"backup_strategy": {"instance_id": "INSTANCE", "swift_container": "c"}}`},
		{"DELETE", "/v1.0/acme/backup_strategies?instance_id=INSTANCE&project_id=acme", "", "", ""},
		{"POST", "/v1.0/acme/backups", kind, js, `{"backup": {"name": "n", "name": 1e999, "instance": null}}`},
	} {
		for role := range uint8(4) {
			f.Add(c.method, c.target, c.header, c.value, c.body, role)
		}
	}
	f.Fuzz(func(t *testing.T, method, target, header, value, body string, role uint8) {
		if method == http.MethodDelete { // they are wanted for the inputs to come
			target = strings.NewReplacer("INSTANCE", "01890000-0000-7000-8000-000000000000", "BACKUP", "01890000-0000-7000-8000-000000000000").Replace(target)
		}
		body = ids.Replace(body)
		text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: h\r\nX-Auth-Token: %s\r\nContent-Type: application/json\r\n", method, ids.Replace(target), tokens[role%4])
		if header != "" {
			text = fmt.Sprintf("%s%s: %s\r\n", text, header, value)
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", text, len(body), body))))
		if err != nil {
			t.Skip() // net/http answers these
		}
		r = r.WithContext(t.Context())
		r.RemoteAddr = "127.0.0.1:1"
		got := httptest.NewRecorder()
		handler.ServeHTTP(got, r)
		a := servertest.Answer{Status: got.Code, Header: got.Header(), Body: got.Body.String()}
		switch {
		case a.Status >= 500 && a.Status != 501 && a.Status != 503:
			t.Fatalf("%s %q %q: got %d %s", method, target, body, a.Status, a.Body)
		case a.Status >= 300:
			isFault(t, a)
		case a.Body != "" && !json.Valid([]byte(a.Body)):
			t.Fatalf("%s %q: not JSON: %d %q", method, target, a.Status, a.Body)
		}
	})
}

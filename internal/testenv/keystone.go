package testenv

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// KeystoneServer is a running OpenStack Keystone.
type KeystoneServer struct {
	URL string // http://127.0.0.1:PORT
	// Vars are what scripts/keystone-up prints: the OS_ variables of the user demo,
	// who is a member of the project demo, and the identifiers of projects.
	Vars map[string]string
	// TrovePort is the port on loopback where its catalog says that the database service
	// is. Nothing is there until a test listens.
	TrovePort int

	service *service
}

// Keystone returns a Keystone that all tests of the process share; it ends with the
// process. Its catalog names no Swift that runs: see SwiftKeystone.
func Keystone(t TB) *KeystoneServer {
	t.Helper()
	needKeystone(t)
	k, err := sharedKeystone()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return k
}

var sharedKeystone = sync.OnceValues(func() (*KeystoneServer, error) { return newKeystone() })

func newKeystone(args ...string) (*KeystoneServer, error) {
	var err error
	for range startTries {
		var port int
		if port, err = FreePort(); err != nil {
			return nil, err
		}
		var trove int
		if trove, err = FreePort(); err != nil {
			return nil, err
		}
		var service *service
		if service, err = startService("keystone", port, append([]string{"-t", strconv.Itoa(trove)}, args...)...); err == nil {
			return &KeystoneServer{URL: fmt.Sprintf("http://127.0.0.1:%d", port), Vars: service.env, TrovePort: trove, service: service}, nil
		}
		if !portTaken(err) {
			break
		}
	}
	return nil, err
}

func needKeystone(t TB) {
	t.Helper()
	if _, err := os.Stat("/usr/bin/keystone-wsgi-public"); err != nil {
		Missing(t, "keystone", "no /usr/bin/keystone-wsgi-public; install python3-keystone")
	}
	if _, err := os.Stat("/usr/lib/python3/dist-packages/keystonemiddleware"); err != nil {
		Missing(t, "keystone", "no keystonemiddleware; install python3-keystonemiddleware")
	}
}

// Env returns the log-in of the user demo as variables, in the form of os.Environ.
func (k *KeystoneServer) Env() []string {
	list := k.service.environ(func(name string) bool { return strings.HasPrefix(name, "OS_") })
	slices.Sort(list)
	return list
}

// User returns the OS_ variables of a user of scripts/keystone-up in a project.
func (k *KeystoneServer) User(user, project string) map[string]string {
	vars := maps.Clone(k.Vars)
	vars["OS_USERNAME"], vars["OS_PASSWORD"], vars["OS_PROJECT_NAME"] = user, user+"-key", project
	return vars
}

// Token logs in with the variables of a user and returns the token and its user's
// identifier.
func (k *KeystoneServer) Token(t TB, vars map[string]string) (token, userID string) {
	t.Helper()
	domain := map[string]any{"id": "default"}
	var answer struct {
		Token struct {
			User struct{ ID string }
		}
	}
	header := k.call(t, http.MethodPost, "/auth/tokens", nil, map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": vars["OS_USERNAME"], "password": vars["OS_PASSWORD"], "domain": domain}}},
		"scope": map[string]any{"project": map[string]any{"name": vars["OS_PROJECT_NAME"], "domain": domain}},
	}}, &answer)
	return header.Get("X-Subject-Token"), answer.Token.User.ID
}

// Revoke makes a token invalid. Swift's filter remembers tokens for 10 seconds.
func (k *KeystoneServer) Revoke(t TB, token string) {
	t.Helper()
	k.call(t, http.MethodDelete, "/auth/tokens", http.Header{"X-Auth-Token": {token}, "X-Subject-Token": {token}}, nil, nil)
}

// ApplicationCredential makes one for the user of vars, and returns the variables of
// a log-in with it.
func (k *KeystoneServer) ApplicationCredential(t TB, vars map[string]string, name string) map[string]string {
	t.Helper()
	token, user := k.Token(t, vars)
	var answer struct {
		Credential struct{ ID, Secret string } `json:"application_credential"`
	}
	k.call(t, http.MethodPost, "/users/"+user+"/application_credentials", http.Header{"X-Auth-Token": {token}},
		map[string]any{"application_credential": map[string]any{"name": name}}, &answer)
	return map[string]string{
		"OS_AUTH_URL": vars["OS_AUTH_URL"], "OS_REGION_NAME": vars["OS_REGION_NAME"], "OS_AUTH_TYPE": "v3applicationcredential",
		"OS_APPLICATION_CREDENTIAL_ID": answer.Credential.ID, "OS_APPLICATION_CREDENTIAL_SECRET": answer.Credential.Secret,
	}
}

// NewUser makes a user who is a member of a project, and returns the variables of a
// log-in and the user's identifier. It is for tests that do harm to a user.
func (k *KeystoneServer) NewUser(t TB, project string) (vars map[string]string, id string) {
	t.Helper()
	vars = maps.Clone(k.Vars)
	name := "user-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	vars["OS_USERNAME"], vars["OS_PASSWORD"], vars["OS_PROJECT_NAME"] = name, name+"-key", project
	var made struct{ User struct{ ID string } }
	k.Admin(t, http.MethodPost, "/users", map[string]any{"user": map[string]any{"name": name, "domain_id": "default", "password": name + "-key"}}, &made)
	k.Admin(t, http.MethodPut, "/projects/"+k.Vars[strings.ToUpper(project)+"_PROJECT_ID"]+"/users/"+made.User.ID+"/roles/"+k.Role(t, "member"), nil, nil)
	return vars, made.User.ID
}

// Role returns the identifier of a role.
func (k *KeystoneServer) Role(t TB, name string) string {
	t.Helper()
	var list struct{ Roles []struct{ ID string } }
	k.Admin(t, http.MethodGet, "/roles?name="+name, nil, &list)
	if len(list.Roles) != 1 {
		t.Fatalf("%d roles have the name %s", len(list.Roles), name)
	}
	return list.Roles[0].ID
}

// Admin sends a request to the Identity API as its administrator, and reads the answer
// into what into points to, if not nil.
func (k *KeystoneServer) Admin(t TB, method, path string, body, into any) {
	t.Helper()
	token, _ := k.Token(t, k.User("admin", "admin"))
	k.call(t, method, path, http.Header{"X-Auth-Token": {token}}, body, into)
}

// call sends one request to the Identity API and returns the headers of the answer.
func (k *KeystoneServer) call(t TB, method, path string, header http.Header, body, into any) http.Header {
	t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatalf("%v", err)
		}
	}
	req, err := http.NewRequest(method, k.URL+"/v3"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v", err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s, %v: %s", method, path, resp.Status, err, answer)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return resp.Header
}

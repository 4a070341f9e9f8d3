package access_test

import (
	"errors"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A user logs in with a password, to a project or to choose one.
func TestKeystoneLogIn(t *testing.T) {
	server := testenv.Keystone(t)
	k := newKeystone(t, access.KeystoneOptions{URL: server.URL})
	in := access.PasswordLogIn{User: server.Vars["OS_USERNAME"], Password: config.Secret(server.Vars["OS_PASSWORD"]), Project: server.Vars["OS_PROJECT_NAME"]}
	ctx := t.Context()
	token, err := k.LogIn(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	who, err := k.Check(ctx, token)
	if err != nil || who.User != in.User || who.ProjectName != in.Project {
		t.Fatalf("got %v, %v", who, err)
	}
	free := in
	free.Project = ""
	if token, err = k.LogIn(ctx, free); err != nil {
		t.Fatal(err)
	}
	list, err := k.Projects(ctx, token)
	if err != nil || len(list) == 0 {
		t.Fatalf("projects: %v, %v", list, err)
	}
	if token, err = k.Choose(ctx, token, list[0].ID); err != nil {
		t.Fatal(err)
	}
	if who, err = k.Check(ctx, token); err != nil || who.Project != list[0].ID {
		t.Errorf("got %v, %v", who, err)
	}
	for name, change := range map[string]func(*access.PasswordLogIn){
		"password": func(in *access.PasswordLogIn) { in.Password = "wrong" },
		"user":     func(in *access.PasswordLogIn) { in.User = "nobody" },
		"project":  func(in *access.PasswordLogIn) { in.Project = "nowhere" },
		"domain":   func(in *access.PasswordLogIn) { in.Domain = "nowhere" },
	} {
		bad := in
		change(&bad)
		if _, err := k.LogIn(ctx, bad); !errors.Is(err, access.ErrUnauthorized) {
			t.Errorf("with a wrong %s: %v", name, err)
		}
	}
	if _, err := k.Choose(ctx, token, "nowhere"); !errors.Is(err, access.ErrUnauthorized) {
		t.Errorf("a project that isn't there: %v", err)
	}
}

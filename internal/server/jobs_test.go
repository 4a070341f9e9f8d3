package server_test

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// What is sealed can be read to its end by the agent, and by nobody else.
func TestSeal(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	a := &job.Agent{ID: "a", Recipient: id.Recipient().String()}
	want := job.Secrets{Token: "gAAAAAB", Password: "geheim"}
	sealed, err := server.Seal(a, want)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), id)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var got job.Secrets
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := age.Decrypt(bytes.NewReader(sealed), other); err == nil {
		t.Error("another agent can read it")
	}
	if bytes.Contains(sealed, []byte(want.Token)) {
		t.Error("it is in the clear")
	}
	if none, err := server.Seal(a, job.Secrets{}); none != nil || err != nil {
		t.Errorf("of nothing: %v, %v", none, err)
	}
	if _, err := server.Seal(&job.Agent{ID: "b"}, want); err == nil {
		t.Error("an agent without a key gets secrets")
	}
}

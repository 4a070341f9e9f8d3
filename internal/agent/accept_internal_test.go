package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// The node's own settings decide where its jobs have to do with backups.
func TestAcceptedPlaces(t *testing.T) {
	t.Parallel()
	const swift = "https://swift.example:8080/v1/AUTH_p"
	account := func(storage, container string) job.Repository {
		return job.Repository{URL: "swift://" + container, Storage: storage}
	}
	at := func(url string) job.Repository { return job.Repository{URL: url} }
	for _, test := range []struct {
		own    string
		accept []string
		in     job.Repository
		ok     bool
	}{
		{"", nil, at(""), true}, // which fails by itself
		{"", nil, account(swift, "box"), true},
		{"file:///backups", nil, at(""), true},
		{"file:///backups", nil, at("file:///backups/"), true},
		{"s3://bucket/couch?region=x", nil, at("s3://bucket/couch?region=x"), true},
		{"file:///backups", nil, account(swift, "box"), false},
		{"file:///backups", nil, at("file:///backups/below"), false},
		{"file:///backups/below", nil, at("file:///backups"), false},
		{"file:///backups", nil, at("file:///etc"), false},
		{"file:///backups", nil, at("/etc"), false},
		{"s3://bucket/couch", nil, at("s3://other/couch"), false},
		{"sftp://me@host/b", nil, at("sftp://you@host/b"), false},
		{"s3://bucket/couch", nil, at("s3://bucket/couch2"), false},

		{"file:///backups", []string{"https://swift.example:8080/v1/"}, account(swift, "box"), true},
		{"file:///backups", []string{swift}, account(swift+"/", "box/couch"), true},
		{"", []string{swift + "/box"}, account(swift, "box"), true},
		{"", []string{swift + "/box"}, account(swift, "box2"), false},
		{"", []string{swift}, account(swift+"2", "box"), false},
		{"", []string{swift}, account("https://swift.example/v1/AUTH_p", "box"), false}, // another port
		{"", []string{swift}, account("http://swift.example:8080/v1/AUTH_p", "box"), false},
		{"", []string{swift}, account("https://evil.example/v1/AUTH_p", "box"), false},
		{"", []string{swift}, account("https://swift.example:8080@evil.example/v1/AUTH_p", "box"), false},
		{"", []string{swift}, account(swift, "../AUTH_q/box"), false},
		{"", []string{swift}, account(swift+"/%2e%2e/AUTH_q", "box"), false},
		{"", []string{swift}, account(swift+"%2f..%2fAUTH_q", "box"), false},
		{"", []string{swift}, job.Repository{URL: "file:///backups", Storage: swift}, false},
		{"s3://bucket/new", []string{"s3://bucket/old?region=x"}, at("s3://bucket/old?region=x"), true},
		{"s3://bucket/new", []string{"s3://bucket/old"}, at("s3://bucket/old?endpoint=https://evil.example"), false},
		{"", []string{swift}, account(swift, "box?auth_url=https://evil.example"), false},
		{"/backups", []string{"/old"}, at("file:///old"), true},
		{"/backups", []string{"/old"}, at("file:///old/../etc"), false},
		{"/backups", []string{"/"}, at("file:///anywhere"), true},
	} {
		o := &Options{RepositoryURL: test.own, Accept: test.accept, Host: "host1"}
		err := o.acceptsPlace(test.in)
		if (err == nil) != test.ok {
			t.Errorf("a node of %q that accepts %q: %+v: %v", test.own, test.accept, test.in, err)
		}
		if err != nil && strings.HasPrefix(test.in.URL, "swift:") && !strings.Contains(err.Error(), "accept_storages") {
			t.Errorf("%v", err)
		}
	}
}

// What a job is encrypted to is the node's too: by its setting, or by what it was given when
// it joined.
func TestAcceptedRecipients(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		setting, join, asked []string
		ok                   bool
	}{
		{nil, nil, []string{"evil"}, true},
		{[]string{"a", "b"}, nil, []string{"b", "a"}, true},
		{[]string{"a", "b"}, nil, nil, true}, // then it is those
		{[]string{"a"}, nil, []string{"evil"}, false},
		{[]string{"a"}, nil, []string{"a", "evil"}, false},
		{[]string{"a", "b"}, nil, []string{"a"}, false},
		{nil, []string{"a"}, []string{"a"}, true},
		{nil, []string{"a"}, []string{"evil"}, false},
		{[]string{"b"}, []string{"a"}, []string{"a"}, false},
	} {
		o := &Options{Backup: backup.Options{Recipients: test.setting}, JoinRecipients: test.join}
		err := o.acceptsRecipients(job.Repository{Storage: "https://swift/v1/AUTH_p", Recipients: test.asked})
		if (err == nil) != test.ok {
			t.Errorf("a node of %v, joined with %v, is asked for %v: %v", test.setting, test.join, test.asked, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "set recipients") || !strings.Contains(err.Error(), strings.Join(test.asked, ", "))) {
			t.Errorf("%v", err)
		}
	}
}

// A job for the node's own repository is done there, at the endpoint of the node's own
// configuration, whatever endpoint the job names.
func TestOwnPlaceIsThatOfTheConfiguration(t *testing.T) {
	t.Parallel()
	var asked []Open
	a := &agent{o: Options{RepositoryURL: "s3://bucket/couch?endpoint=https://s3.example", OpenRepo: func(_ context.Context, o Open) (*repo.Repo, func(), error) {
		asked = append(asked, o)
		return nil, nil, storage.ErrUnavailable
	}}}
	w := &work{job: &job.Job{Spec: job.Spec{RepoName: "node1", Repository: job.Repository{URL: "s3://bucket/couch/?endpoint=https://evil.example"}}}}
	if _, _, err := a.open(t.Context(), w, false); !errors.Is(err, storage.ErrUnavailable) {
		t.Fatal(err)
	}
	if len(asked) != 1 || asked[0].Repository.URL != "" {
		t.Errorf("opened: %+v", asked)
	}
}

package cli

import "testing"

func TestSameLogIn(t *testing.T) {
	for _, test := range []struct {
		own, asked string
		want       bool
	}{
		{"/backups", "file:///backups", true},
		{"file:///backups", "file:///old", true},
		{"/backups", "swift://c", false},
		{"swift://c/new", "swift://old/p", true},
		{"swift://c", "swift://c?auth_url=https://evil.example", false},
		{"swift://c?auth_url=https://k/v3&region=r", "swift://d?region=r&auth_url=https://k/v3", true},
		{"s3://b?endpoint=https://minio:9000", "s3://other?endpoint=https://minio:9000", true},
		{"s3://b?endpoint=https://minio:9000", "s3://b?endpoint=https://evil.example", false},
		{"s3://b?endpoint=https://minio:9000", "s3://b", false},
		{"sftp://u@h/x", "sftp://u@h/y", true},
		{"sftp://u:secret@h/x", "sftp://u@h/x", true},
		{"sftp://u@h/x", "sftp://u@evil/x", false},
		{"sftp://u@h/x", "sftp://v@h/x", false},
		{"s3://b", "gs://b", false},
		{"s3://b", "s3://b?%zz", false},
		{"s3://b", "s3://b?x=%zz&endpoint=https://evil.example", false},
	} {
		if got := sameLogIn(test.own, test.asked); got != test.want {
			t.Errorf("%s, %s: %v, want %v", test.own, test.asked, got, test.want)
		}
	}
}

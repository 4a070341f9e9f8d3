package swift_test

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/storage/swift"
)

// What is wrong is said before anything is sent.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	v3 := "OS_AUTH_URL=http://127.0.0.1:1 OS_USERNAME=u OS_PASSWORD=secret OS_PROJECT_NAME=p"
	tests := []struct{ url, env, want string }{
		{"swift:///prefix", v3, "no valid container"},
		{"swift://user:secret@c/prefix", v3, "no user, password or host"},
		{"swift://c//x", v3, "the prefix may have"},
		{"swift://c/ä", v3, "the prefix may have"},
		{"swift://c#x", v3, "not a Swift URL"},
		{"swift://c?color=red", v3, `no parameter "color"`},
		{"swift://c?password=secret", v3, "secrets don't belong in a URL"},
		{"swift://c?region=a&region=b", v3, "given once"},
		{"swift://c?region=", v3, "with a value"},
		{"swift://c?segment_size=10X", v3, "KiB, MiB or GiB"},
		{"swift://c?segment_size=4096", v3, "below 1MiB"},
		{"swift://c?timeout=1ms", v3, "below 1s"},
		{"swift://c?timeout=x", v3, "timeout=x"},
		{"swift://c?auth_url=https://u:secret@h/v3", v3, "without a user or password"},
		{"swift://c", "", "set OS_AUTH_URL"},
		{"swift://c", "OS_AUTH_URL=http://h OS_USERNAME=u", "OS_PASSWORD"},
		{"swift://c", "OS_AUTH_URL=http://h OS_PASSWORD=secret", "OS_USERNAME"},
		{"swift://c", "OS_AUTH_URL=http://h OS_USERNAME=u OS_PASSWORD=secret", "OS_PROJECT_NAME"},
		{"swift://c", "OS_AUTH_URL=http://h OS_APPLICATION_CREDENTIAL_ID=i", "OS_APPLICATION_CREDENTIAL_SECRET"},
		{"swift://c", "ST_AUTH=http://h/auth/v1.0 ST_USER=u", "ST_KEY"},
		{"swift://c", "OS_AUTH_TOKEN=secret", "OS_STORAGE_URL"},
		{"swift://c", v3 + " OS_STORAGE_URL=nothing", "OS_STORAGE_URL isn't a URL"},
		{"swift://c", v3 + " OS_CACERT=/none", "OS_CACERT"},
		{"swift://c", v3, "log in at http://127.0.0.1:1/v3: storage is not available"},
	}
	for _, tt := range tests {
		vars := map[string]string{}
		for _, pair := range strings.Fields(tt.env) {
			name, value, _ := strings.Cut(pair, "=")
			vars[name] = value
		}
		_, err := swift.Open(t.Context(), tt.url, swift.Options{Getenv: getenv(vars)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %s: got %v, want %q", tt.url, tt.env, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") && !strings.Contains(tt.want, "secret") {
			t.Errorf("%s with %s: the error shows a secret: %v", tt.url, tt.env, err)
		}
	}
}

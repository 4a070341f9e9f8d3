package words_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/words"
)

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"abc", "abc", 0},
		{"paralel", "parallel", 1},
		{"data-dir", "data_dir", 1},
		{"kitten", "sitting", 3},
		{"flaw", "lawn", 2},
		{"ordesr", "orders", 2},
		{"saturday", "sunday", 3},
	}
	for _, tt := range tests {
		if got := words.Distance(tt.a, tt.b); got != tt.want {
			t.Errorf("from %q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := words.Distance(tt.b, tt.a); got != tt.want {
			t.Errorf("from %q to %q: %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"instance", "parallel", "owner", "couch_url", "couch_user"}
	tests := []struct{ word, want string }{
		{"paralel", "parallel"},
		{"OWNER", ""},
		{"ownr", "owner"},
		{"couch_u", "couch_url"},
		{"couch_us", "couch_url"}, // two edits from each: the first
		{"colour", ""},
		{"", ""},
	}
	for _, tt := range tests {
		if got := words.Nearest(tt.word, candidates); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.word, got, tt.want)
		}
	}
	if got := words.Nearest("x", nil); got != "" {
		t.Errorf("without candidates: %q", got)
	}
}

package words_test

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/words"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][3]bool{ // IsName, IsLine, IsText
		"nightly 02:30":         {true, true, true},
		"日本　語 é 👩‍🔬":            {true, true, true},
		"می\u200cخواهم":         {true, true, true},
		"":                      {false, true, true},
		" \u00a0":               {false, true, true},
		strings.Repeat("é", 20): {true, true, true},
		strings.Repeat("é", 21): {false, true, true},
		"two\nlines":            {false, false, true},
		"two\r\nlines\tand":     {false, false, true},
		"over\rwritten":         {false, false, false},
		"bell\a":                {false, false, false},
		"\x1b[2Jred":            {false, false, false},
		"c1 \u009b31m":          {false, false, false},
		"nul\x00":               {false, false, false},
		"del\x7f":               {false, false, false},
		"turned \u202egpj.exe":  {false, false, false},
		"isolated \u2066x":      {false, false, false},
		"line \u2028end":        {false, false, false},
		"no character \xff":     {false, false, false},
		"tag \U000e0041":        {false, false, false},
	} {
		if got := [3]bool{words.IsName(text, 20), words.IsLine(text), words.IsText(text)}; got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestUpperFirst(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "it failed": "It failed", "éa": "Éa", "42": "42", "\xff": "\xff"} {
		if got := words.UpperFirst(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

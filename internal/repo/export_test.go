package repo

import "testing"

// usualWork is what it costs to try a passphrase outside of tests.
var usualWork = passphraseWork

func init() { passphraseWork = 10 }

func TestPassphraseCosts(t *testing.T) {
	if usualWork < 18 {
		t.Errorf("a passphrase is tried in 2^%d steps, want 2^18", usualWork)
	}
}

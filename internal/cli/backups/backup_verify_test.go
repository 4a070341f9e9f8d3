package backups

import "testing"

func TestShare(t *testing.T) {
	for text, want := range map[string]float64{"5%": 0.05, "0.25": 0.25, "100%": 1, "0%": -1, "150%": -1, "x": -1, "5 apples": -1, "NaN": -1} {
		got, err := share(text)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

package config

import (
	"encoding/json"
	"testing"
)

func TestBytes(t *testing.T) {
	tests := []struct {
		text string
		want Bytes
		back string // what String makes of it
	}{
		{"0", 0, "0"},
		{"1", 1, "1"},
		{"4096", 4096, "4KiB"},
		{"64MiB", 64 << 20, "64MiB"},
		{"64mib", 64 << 20, "64MiB"},
		{"20 MiB", 20 << 20, "20MiB"},
		{"500KB", 500_000, "500KB"},
		{"1.5GiB", 3 << 29, "1536MiB"},
		{"0.5 kb", 500, "500"},
		{"2TB", 2e12, "2TB"},
		{"1023B", 1023, "1023"},
	}
	for _, tt := range tests {
		got, err := ParseBytes(tt.text)
		if err != nil || got != tt.want || got.String() != tt.back {
			t.Errorf("%q: got %d (%s), %v, want %d (%s)", tt.text, got, got, err, tt.want, tt.back)
		}
		if again, err := ParseBytes(got.String()); err != nil || again != got {
			t.Errorf("%q: its text %s reads as %d, %v", tt.text, got, again, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "+1", "1e3", "0x10", "1_000", "NaN", "Inf", "1M", "1K", "1 MiB/s", "9999999TiB", "1BiB", "1..5MB", "1;MB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q reads as %d", text, got)
		}
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{"0": 0, "0/s": 0, "20MiB/s": 20 << 20, "500KB/s": 500_000, "100/s": 100} {
		got, err := ParseRate(text)
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
		if again, err := ParseRate(got.String()); err != nil || again != got {
			t.Errorf("%q: its text %s reads as %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "20MiB", "20MiB/m", "/s", "20 Mbit/s", "-1MB/s"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q reads as %d", text, got)
		}
	}
	if b, err := json.Marshal(map[string]any{"r": Rate(1 << 20), "b": Bytes(1000)}); err != nil || string(b) != `{"b":"1KB","r":"1MiB/s"}` {
		t.Errorf("JSON: got %s, %v", b, err)
	}
}

func FuzzBytes(f *testing.F) {
	for _, text := range []string{"64MiB", "1.5 kb", "20MiB/s", "\u0130B", ".", "1e9"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ParseBytes(text)
		if err != nil {
			return
		}
		if again, err := ParseBytes(b.String()); b < 0 || err != nil || again != b {
			t.Errorf("%q reads as %d, which reads back as %d, %v", text, b, again, err)
		}
	})
}

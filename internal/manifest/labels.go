package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// The limits of labels.
const (
	maxLabels     = 16
	maxLabelKey   = 63  // bytes
	maxLabelValue = 256 // bytes
)

// CheckLabels reports the first label that a backup can't have: there are at most
// 16; a key is 1 to 63 characters of a-z 0-9 . -, a value at most 256 bytes of UTF-8.
func CheckLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("%d labels: a backup has at most %d", len(labels), maxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if !validLabelKey(key) {
			return fmt.Errorf("label %.80q: a label's key is 1 to %d lower-case letters, digits, \".\" and \"-\"", key, maxLabelKey)
		}
		if v := labels[key]; len(v) > maxLabelValue || !utf8.ValidString(v) {
			return fmt.Errorf("label %q: its value is at most %d bytes of UTF-8, and this has %d", key, maxLabelValue, len(v))
		}
	}
	return nil
}

func validLabelKey(key string) bool {
	if key == "" || len(key) > maxLabelKey {
		return false
	}
	for i := range len(key) {
		c := key[i]
		alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alnum && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// UnmarshalJSON reads a record, and refuses labels and a cluster that no backup can have.
func (r *Record) UnmarshalJSON(b []byte) error {
	type plain Record
	if err := json.Unmarshal(b, (*plain)(r)); err != nil {
		return err
	}
	if err := errors.Join(CheckLabels(r.Labels), CheckCluster(r.Cluster, r.Nodes)); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}

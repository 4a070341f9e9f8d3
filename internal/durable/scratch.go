package durable

import (
	"fmt"
	"os"
)

// Scratch is a file that is thrown away. It is not durable.
type Scratch struct {
	*os.File
	gone bool // has no name any more
}

// NewScratch makes an empty file in dir, "" being the system's directory for temporary
// files. Where an open file can be removed, a kill leaves nothing; elsewhere a file that
// IsTemp knows.
func NewScratch(dir string) (*Scratch, error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*"+tempSuffix)
	if err != nil {
		return nil, fmt.Errorf("make a scratch file: %w", err)
	}
	return &Scratch{f, os.Remove(f.Name()) == nil}, nil
}

// Discard closes and removes it.
func (s *Scratch) Discard() {
	_ = s.Close() // it is thrown away
	if !s.gone {
		_ = os.Remove(s.Name())
	}
}

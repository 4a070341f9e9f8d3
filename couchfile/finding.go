package couchfile

import "fmt"

// Finding is one thing that is wrong with a file.
type Finding struct {
	Offset int64  // bytes from the start of the file
	What   string // what is wrong there: "doc summary: checksum mismatch"
	Doc    string // id of the document it hurts, if known
	Rev    string // revision it hurts, if known
	Err    error  // cause; may be nil
}

func (f Finding) String() string {
	s := fmt.Sprintf("at %d: %s", f.Offset, f.What)
	if f.Doc != "" {
		s += fmt.Sprintf(" (document %q", f.Doc)
		if f.Rev != "" {
			s += " rev " + f.Rev
		}
		s += ")"
	}
	return s
}

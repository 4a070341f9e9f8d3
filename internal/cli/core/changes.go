package core

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/slipcover/slipcover/internal/serve"
)

// PrintChanges prints what differs in a document, a line for each place.
func PrintChanges(w io.Writer, list []serve.Change) error {
	for _, c := range list {
		from, err := json.Marshal(c.From)
		if err != nil {
			return err
		}
		to, err := json.Marshal(c.To)
		if err != nil {
			return err
		}
		switch path := Clean(c.Path); {
		case c.Added:
			_, err = fmt.Fprintf(w, "+ %s  %s\n", path, to)
		case c.Removed:
			_, err = fmt.Fprintf(w, "- %s  %s\n", path, from)
		default:
			_, err = fmt.Fprintf(w, "~ %s  %s -> %s\n", path, from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

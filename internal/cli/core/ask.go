package core

import (
	"fmt"
	"io"
	"strings"
)

// Confirm asks a question at the terminal; anything but yes is no.
func Confirm(env *Env, question string) (bool, error) {
	fmt.Fprintf(env.Stderr, "%s [y/N] ", question)
	line, err := ReadLine(env.Stdin)
	if err != nil {
		return false, err
	}
	a := strings.ToLower(line)
	return a == "y" || a == "yes", nil
}

// ReadLine reads a line byte by byte, so that the next question finds the rest.
func ReadLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < 4096 {
		n, err := r.Read(b[:])
		if n == 1 {
			if b[0] == '\n' {
				break
			}
			line = append(line, b[0])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return strings.TrimSpace(string(line)), nil
}

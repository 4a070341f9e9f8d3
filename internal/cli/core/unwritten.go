package core

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// watched is standard output. It remembers why it couldn't be written: nobody needs to
// look after each line, and Finish tells it at the end.
type watched struct {
	w   io.Writer
	mu  sync.Mutex
	err error // guarded by mu
}

func (o *watched) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(p)
	if err != nil {
		o.err = &unwritten{err}
		return n, o.err
	}
	return n, nil
}

// unwritten says that the output can't be written. Its cause is no error of the storage
// or of what the command works on, so it isn't wrapped.
type unwritten struct{ cause error }

func (u *unwritten) Error() string {
	cause := u.cause
	if path := (*fs.PathError)(nil); errors.As(cause, &path) {
		cause = path.Err
	}
	return "the output can't be written: " + cause.Error()
}

// WatchOutput makes Finish tell of output that can't be written.
func (e *Env) WatchOutput() { e.Stdout = &watched{w: e.Stdout} }

// Done notes what the command has done, such as "backup 01a2… was made": it is true
// whatever becomes of the output.
func (e *Env) Done(format string, args ...any) { e.done = fmt.Sprintf(format, args...) }

// outputFault returns err, the command's, or what to say if the output is the only thing
// that went wrong.
func (e *Env) outputFault(err error) error {
	o, ok := e.Stdout.(*watched)
	if !ok {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	fault := (*unwritten)(nil)
	switch {
	case o.err == nil, err != nil && !errors.As(err, &fault):
		return err
	case e.done != "":
		return fmt.Errorf("%w, but %s", o.err, e.done)
	}
	return o.err
}

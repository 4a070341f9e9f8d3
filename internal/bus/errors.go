package bus

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound says that the table has no such key.
	ErrNotFound = errors.New("no such key")
	// ErrExists says that the key is there already.
	ErrExists = errors.New("the key exists")
	// ErrConflict says that the entry has another revision than the caller knows.
	ErrConflict = errors.New("the entry was changed by another")
	// ErrNoIssuer says that there is no account key to sign credentials with.
	ErrNoIssuer = errors.New("no account key: make the agent's user in NATS by hand, or set the account's seed file")
	// ErrNoAgent says that the agent isn't connected.
	ErrNoAgent = errors.New("the agent is not connected")
	// ErrNoServer says that no server listens, or that the connection is down.
	ErrNoServer = errors.New("no server is listening")
	// ErrUnavailable says that NATS can't be used now, or that it has lost a table.
	ErrUnavailable = errors.New("NATS is not available")
	// ErrRefused says that NATS doesn't accept the credentials.
	ErrRefused = errors.New("NATS refuses the credentials")
	// ErrCertificate says that what answers isn't known by the certificates that sign NATS's.
	ErrCertificate = errors.New("the certificate of NATS is not one to trust here")
	// ErrInUse says that another process uses the folder.
	ErrInUse = errors.New("another process uses it")
)

// CodeUnknown is the code of the Error by which a server tells an agent that it knows no such.
const CodeUnknown = "unknown_agent"

// Error is what the function at the other end of a request returned. A function
// given to Serve or Answer may return one to set the code; of another error the
// text is sent, so it must not hold a secret.
type Error struct {
	Code string `json:"code,omitempty"` // for programs; may be empty
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text }

// checkName refuses what can't be a part of a subject. Letters, digits, dash and
// underscore, 1 to 128 of them, are allowed.
func checkName(what, name string) error {
	if !validName(name) {
		return fmt.Errorf("%s %.140q: use 1 to 128 letters, digits, dashes and underscores", what, name)
	}
	return nil
}

func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return name != "" && len(name) <= 128
}

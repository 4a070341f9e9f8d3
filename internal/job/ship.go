package job

import "time"

// Ship says which instance an agent is to ship.
type Ship struct {
	Instance string `json:"instance"` // id
	RepoName string `json:"repo_name"`
	// KeepMoments is for how long moments are kept; 0 is as the agent's settings say.
	KeepMoments time.Duration `json:"keep_moments,omitempty"`
}

// Shipping is how the shipping of an instance is doing. Times are by the node's clock.
type Shipping struct {
	// Shipped is up to when all was known to be stored; zero if that isn't known yet.
	Shipped time.Time `json:"shipped,omitzero"`
	// LagSeconds is how old the oldest commit may be that isn't stored, when this was said; 0 if all are.
	LagSeconds float64 `json:"lag_seconds,omitempty"`
	LagBytes   int64   `json:"lag_bytes,omitempty"`
	// Error is why something could not be stored, or why nothing is shipped; "" if all is well.
	Error      string    `json:"error,omitempty"`
	ErrorSince time.Time `json:"error_since,omitzero"`
	// Chain is when shipping began without a gap, and Window since when any moment can be had
	// back: later, if moments are not kept that long. Zero while nothing is shipped.
	Chain  time.Time `json:"chain,omitzero"`
	Window time.Time `json:"window,omitzero"`
}

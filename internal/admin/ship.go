package admin

import (
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
)

// shipFields are what can be said of the shipping of an instance.
type shipFields struct {
	Enabled     bool   `json:"enabled"`
	KeepMoments string `json:"keep_moments,omitempty"`
}

type shipView struct {
	shipFields
	Reported    bool      `json:"reported"`
	LagSeconds  float64   `json:"lag_seconds"`
	LagBytes    int64     `json:"lag_bytes"`
	BehindSince time.Time `json:"behind_since,omitzero"`
	Shipped     time.Time `json:"shipped,omitzero"`
	WindowFrom  time.Time `json:"window_from,omitzero"`
	ChainFrom   time.Time `json:"chain_from,omitzero"`
	Error       string    `json:"error,omitempty"`
	ErrorSince  time.Time `json:"error_since,omitzero"`
}

func (c *call) viewShipping(i *job.Instance) shipView {
	v := shipView{shipFields: shipFields{i.Ship, i.KeepMoments}}
	p := c.Server.Shipping(i)
	if p == nil {
		return v
	}
	v.Reported, v.LagSeconds, v.LagBytes, v.Shipped = p.Reported, p.LagSeconds, p.LagBytes, p.Newest
	if p.LagSeconds > 0 {
		v.BehindSince = p.Newest
	}
	v.WindowFrom, v.ChainFrom, v.Error, v.ErrorSince = p.Window, p.Chain, p.Error, p.ErrorSince
	return v
}

func (c *call) showShipping() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	i, err := c.Server.Instance(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"ship": c.viewShipping(i)}, nil
}

// setShipping changes what the body names.
func (c *call) setShipping() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	i, err := c.Server.Instance(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	f := shipFields{i.Ship, i.KeepMoments}
	if err := c.read(&f); err != nil {
		return 0, nil, err
	}
	if i, err = c.Server.SetShipping(c.r.Context(), c.who, id, f.Enabled, f.KeepMoments); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"ship": c.viewShipping(i)}, nil
}

package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// bom is a bill of materials in CycloneDX 1.6, as far as it is used here.
type bom struct {
	Schema       string      `json:"$schema"`
	Format       string      `json:"bomFormat"`
	SpecVersion  string      `json:"specVersion"`
	Version      int         `json:"version"`
	SerialNumber string      `json:"serialNumber"`
	Metadata     metadata    `json:"metadata"`
	Components   []component `json:"components"`
	Dependencies []depends   `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type depends struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// bill lists what the programs themselves say is compiled in: the modules, in which of
// the systems' programs each is, and Go's own library.
func (r *release) bill(systems []system) error {
	in := map[debug.Module][]string{}
	for _, s := range systems {
		info, err := buildinfo.ReadFile(s.program)
		if err != nil {
			return err
		}
		modules := []debug.Module{{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}}
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			modules = append(modules, debug.Module{Path: m.Path, Version: m.Version, Sum: m.Sum})
		}
		for _, m := range modules {
			in[m] = append(in[m], s.goos+"/"+s.goarch)
		}
	}
	self := golang("application", "github.com/slipcover/slipcover", r.version)
	b := bom{Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata: metadata{Timestamp: r.time.Format(time.RFC3339), Component: self}}
	all := depends{Ref: self.Ref}
	for _, m := range slices.SortedFunc(maps.Keys(in), func(a, b debug.Module) int { return strings.Compare(a.Path+"@"+a.Version, b.Path+"@"+b.Version) }) {
		c := golang("library", m.Path, m.Version)
		if m.Sum != "" {
			c.Properties = append(c.Properties, property{"slipcover:go.sum", m.Sum})
		}
		if len(in[m]) < len(systems) {
			c.Properties = append(c.Properties, property{"slipcover:in", strings.Join(in[m], " ")})
		}
		b.Components = append(b.Components, c)
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	b.Dependencies = []depends{all}
	// The number is another one for another content.
	text, err := encode(b)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // a UUID of version 8
	b.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	if text, err = encode(b); err != nil {
		return err
	}
	name := fmt.Sprintf("slipcover_%s.cdx.json", strings.TrimPrefix(r.version, "v"))
	return os.WriteFile(filepath.Join(r.out, name), text, 0o644)
}

func golang(kind, path, version string) component {
	purl := "pkg:golang/" + path + "@" + version
	return component{Type: kind, Ref: purl, Name: path, Version: version, PURL: purl}
}

func encode(b bom) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(b)
	return text.Bytes(), err
}

package config

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// yamlFile is the configuration file that is being read.
type yamlFile struct {
	name, dir string
	layer     map[string]value
}

// parseFile reads slipcover.yml into a layer. It walks the parsed nodes instead
// of decoding into Config, so that a file, a variable and a flag are checked by
// one function, and because the decoder's errors quote the lines of the file,
// passwords included.
func parseFile(name string, data []byte, dir string) (map[string]value, error) {
	f := &yamlFile{name: name, dir: dir, layer: map[string]value{}}
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil {
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) && syntax.Token != nil {
			return nil, fmt.Errorf("%s:%d: not YAML here or just above: check indentation, quotes and colons", name, syntax.Token.Position.Line)
		}
		return nil, fmt.Errorf("%s: not YAML: check indentation, quotes and colons", name)
	}
	docs := 0
	for _, doc := range parsed.Docs {
		switch body := doc.Body.(type) {
		case nil, *ast.NullNode, *ast.CommentGroupNode:
			continue
		case *ast.MappingNode:
			if docs++; docs > 1 {
				return nil, fmt.Errorf("%s: a second YAML document begins here: write all settings into one", f.at(body))
			}
			for _, s := range body.Values {
				if err := f.add(s); err != nil {
					return nil, err
				}
			}
		default:
			return nil, fmt.Errorf("%s: not a setting: write 'key: value'", f.at(body))
		}
	}
	return f.layer, nil
}

// at says where a node stands.
func (f *yamlFile) at(n ast.Node) string {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return f.name
	}
	return fmt.Sprintf("%s:%d", f.name, n.GetToken().Position.Line)
}

// add takes one setting.
func (f *yamlFile) add(s *ast.MappingValueNode) error {
	name, ok := scalar(s.Key)
	at := f.at(s.Key)
	if m, isMap := s.Value.(*ast.MappingNode); isMap && len(m.Values) > 0 && ok {
		if inner, ok := scalar(m.Values[0].Key); ok {
			return fmt.Errorf("%s: settings don't nest: write %s_%s or see 'slipcover config example'", at, name, inner)
		}
	}
	if _, known := findKey(name); !ok || !known {
		var names []string
		for _, k := range keys {
			names = append(names, k.Name)
		}
		return fmt.Errorf("%s: %w", at, unknown("key", name, names, "remove it"))
	}
	if before, twice := f.layer[name]; twice {
		return fmt.Errorf("%s: %s is already given at %s: keep one", at, name, before.origin)
	}
	v := value{origin: at, dir: f.dir}
	if seq, isList := s.Value.(*ast.SequenceNode); isList {
		v.isList, v.list = true, []string{}
		for _, item := range seq.Values {
			text, ok := scalar(item)
			if !ok {
				return fmt.Errorf("%s: %s is a list of plain values", f.at(item), name)
			}
			v.list = append(v.list, text)
		}
	} else if v.text, ok = scalar(s.Value); !ok {
		return fmt.Errorf("%s: %s has no plain value: write one, or remove the line", at, name)
	}
	f.layer[name] = v
	return nil
}

// scalar returns the text of a plain, quoted or block value as it was written, so
// that a password of digits stays as it is. Anchors, aliases, tags, maps, and a
// value that is missing or empty are none.
func scalar(n ast.Node) (text string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true // '' is a text too
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		text = n.GetToken().Value
	}
	return text, text != ""
}

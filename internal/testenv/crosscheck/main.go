// Crosscheck type-checks packages and their tests, with all they depend on, as for other
// systems: what doesn't compile there is found in a fraction of the time of a compilation.
//
//	crosscheck SYSTEM/ARCHITECTURE… -- PATTERN…
//
// It prints what is wrong, and ends with 1 if anything is.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	args := os.Args[1:]
	at := slices.Index(args, "--")
	if at < 1 || at == len(args)-1 {
		fmt.Fprintln(os.Stderr, "usage: crosscheck SYSTEM/ARCHITECTURE… -- PATTERN…")
		os.Exit(2)
	}
	code := 0
	for _, system := range args[:at] {
		wrong, err := check(system, args[at+1:])
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		for _, line := range wrong {
			fmt.Printf("%s: %s\n", system, line)
			code = 1
		}
	}
	os.Exit(code)
}

// listed is a package, or its variant for a test, as go list shows it.
type listed struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string // what imports stand for in a variant
	Module          *struct{ GoVersion string }
	Error           *struct{ Err string }
}

func check(system string, patterns []string) (wrong []string, err error) {
	goos, goarch, ok := strings.Cut(system, "/")
	if !ok {
		return nil, fmt.Errorf("%q is no system/architecture", system)
	}
	list := exec.Command("go", append([]string{"list", "-deps", "-test", "-tags=disable_grpc_modules",
		"-json=ImportPath,Dir,GoFiles,ImportMap,Module,Error"}, patterns...)...)
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	list.Stderr = os.Stderr
	out, err := list.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := list.Start(); err != nil {
		return nil, err
	}
	c := &checker{done: map[string]*types.Package{"unsafe": types.Unsafe}, sizes: types.SizesFor("gc", goarch)}
	d := json.NewDecoder(out)
	for { // what a package imports comes before it
		var p listed
		if err = d.Decode(&p); err != nil {
			break
		}
		wrong = append(wrong, c.check(p)...)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	slices.Sort(wrong)
	return slices.Compact(wrong), errors.Join(err, list.Wait())
}

type checker struct {
	done  map[string]*types.Package // by the path in go list
	sizes types.Sizes
}

// check returns what is wrong in a package itself.
func (c *checker) check(p listed) (wrong []string) {
	if p.Error != nil {
		return []string{p.ImportPath + ": " + p.Error.Err}
	}
	if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") { // go makes the latter itself
		return nil
	}
	say := func(err error) { wrong = append(wrong, err.Error()) }
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			say(err)
			continue
		}
		files = append(files, f)
	}
	conf := types.Config{Error: say, Sizes: c.sizes, Importer: importer(func(path string) (*types.Package, error) {
		if mapped, ok := p.ImportMap[path]; ok {
			path = mapped
		}
		if pkg := c.done[path]; pkg != nil {
			return pkg, nil
		}
		return nil, fmt.Errorf("%s was not listed", path)
	})}
	if p.Module != nil && p.Module.GoVersion != "" {
		conf.GoVersion = "go" + p.Module.GoVersion
	}
	path, _, _ := strings.Cut(p.ImportPath, " ")
	pkg, _ := conf.Check(path, fset, files, nil) // conf.Error has them all
	c.done[p.ImportPath] = pkg
	return wrong
}

type importer func(path string) (*types.Package, error)

func (i importer) Import(path string) (*types.Package, error) { return i(path) }

package config

import (
	"strings"
)

const exampleHead = `Slipcover's settings, in slipcover.yml. Each can also be given as a variable or as a flag: data_dir is
SLIPCOVER_DATA_DIR and --data-dir (passwords have no flag). A flag overrides a variable, which overrides this file.
The file is looked for in $XDG_CONFIG_HOME/slipcover (or ~/.config/slipcover), then in /etc/slipcover; --config or
SLIPCOVER_CONFIG names another. Unknown settings are errors. Values below are the defaults; commented ones are examples.`

// Example returns a slipcover.yml with all settings, what they mean, and their
// defaults. It is made of the tags of Config. Reading it gives the defaults.
func Example() string {
	var b strings.Builder
	comment(&b, strings.Join(strings.Fields(exampleHead), " "))
	for _, k := range keys {
		b.WriteByte('\n')
		comment(&b, k.Doc)
		if k.Default != "" {
			b.WriteString(k.Name + ": " + k.Default + "\n")
		} else {
			b.WriteString("#" + k.Name + ": " + k.Example + "\n")
		}
	}
	return b.String()
}

// comment writes a paragraph as lines of at most 100 bytes that begin with "# ".
func comment(b *strings.Builder, text string) {
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > 100 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

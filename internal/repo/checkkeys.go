package repo

import (
	"context"
	"fmt"

	"github.com/slipcover/slipcover/internal/manifest"
)

// single checks the objects that a repository has one of: slipcover.json, and the
// identities under a passphrase.
func (c *checker) single(ctx context.Context) error {
	main, second, err := c.repo.readConfigs(ctx)
	if err != nil {
		return err
	}
	if fault := configFault(main, second); fault != "" {
		c.problem("", "", string(configKey), fault)
	}
	if !c.repo.config.Encrypted() {
		return nil
	}
	copies, err := c.repo.identityCopies(ctx)
	if err != nil {
		return err
	}
	for _, recipient := range c.repo.config.Recipients {
		w, err := c.repo.readIdentity(ctx, recipient, copies)
		if err != nil {
			return err
		}
		if w.main == nil && len(w.copies)+len(w.bad) == 0 {
			continue // none is kept under a passphrase
		}
		if fault := w.fault(); fault != "" {
			c.problem("", "", string(w.key), fault+healed)
		}
	}
	return nil
}

// healed says what to do about a key object that isn't as it was.
const healed = "; the next backup puts right what can be"

// keys checks the wrapped keys of an instance, and returns for each whether it is
// there; nil without encryption.
func (c *checker) keys(ctx context.Context, instance string) (map[string]bool, error) {
	if !c.repo.config.Encrypted() {
		return nil, nil
	}
	keys, err := c.repo.instanceKeys(ctx, instance)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, k := range keys {
		if k.destroyed {
			continue
		}
		w, err := c.repo.readWrapping(ctx, k)
		if err != nil {
			return nil, err
		}
		if w.main == nil && len(w.copies)+len(w.bad) == 0 {
			continue // only a mark is left
		}
		c.report.Keys++
		there[k.recipient] = w.best() != nil
		if fault := w.fault(); fault != "" {
			c.problem(instance, "", string(w.key), fault+healed)
		}
	}
	return there, nil
}

// key checks that the wrapped key is there that a backup is encrypted to.
func (c *checker) key(rec *manifest.Record, keys map[string]bool) {
	switch {
	case keys == nil:
	case rec.InstanceRecipient == "":
		if len(keys) == 0 && !c.repo.CanRead() {
			c.unkeyed++
		}
	case !keys[rec.InstanceRecipient]:
		c.problem(rec.Instance, rec.ID, string(wrappedKey(rec.Instance, rec.InstanceRecipient)), "is gone, so nobody can read this backup; the next backup of the node that has it puts it back, unless it was destroyed")
	}
}

// sayWhat says what was checked, and what was not.
func (c *checker) sayWhat() {
	r := &c.report
	r.Checked = []string{"records and their signatures", "that each segment is stored"}
	if c.repo.config.Encrypted() {
		r.Checked = append(r.Checked, "keys and their second copies")
	}
	r.Unchecked = []string{}
	no := func(n int, what string) {
		if n > 0 {
			r.Unchecked = append(r.Unchecked, fmt.Sprintf(what, n))
		}
	}
	if c.repo.CanRead() {
		r.Checked = append(r.Checked, "manifests", "the size of each segment")
	} else {
		r.Checked = append(r.Checked, "hashes of manifests", "the sizes of segments")
		r.Unchecked = append(r.Unchecked, "what manifests say, and whether the key opens them: needs the repository's key")
		no(c.unsized, "the exact sizes of segments of %d backups of earlier versions: needs the repository's key")
		no(c.unkeyed, "whether the keys of %d backups of earlier versions are there: needs the repository's key")
	}
	content := "the content of segments"
	if r.Shipped > 0 {
		c.sayShipped()
		content += " and of what was shipped"
	}
	if c.opts.ReadData {
		r.Checked = append(r.Checked, "every stored byte that a backup needs")
		no(c.unhashed, "the content of segments of %d backups whose manifest wasn't read: needs the repository's key")
	} else {
		r.Unchecked = append(r.Unchecked, content+": needs --read-data")
	}
	r.Unchecked = append(r.Unchecked, "that backups restore: `slipcover backup verify` does that")
}

// sayShipped says what was checked of what was shipped.
func (c *checker) sayShipped() {
	r := &c.report
	r.Unchecked = append(r.Unchecked, "that what was shipped last is there: `slipcover ship status` on the node tells what is not shipped")
	if !c.repo.CanRead() {
		r.Checked = append(r.Checked, "the names and sizes of what was shipped")
		r.Unchecked = append(r.Unchecked, "the indexes and the content of what was shipped, and which backups its moments need: needs the repository's key")
		return
	}
	r.Checked = append(r.Checked, "the indexes of what was shipped, and that nothing is missing between them")
	if c.opts.ReadData {
		r.Checked = append(r.Checked, "every shipped byte")
	}
}

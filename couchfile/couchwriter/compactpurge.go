package couchwriter

import (
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// purge is an entry of the purge_seq tree: {purge seq, uuid, id, revisions}.
type purge struct {
	seq             uint64
	key, uuid, id   erlterm.Term
	revisions, info erlterm.Term
}

func parsePurge(e couchfile.Entry) (p purge, err error) {
	parts, ok := erlterm.Elements(e.Value)
	seq, _, isInt := erlterm.Uint(e.Key)
	if !ok || len(parts) != 3 || !isInt {
		return p, fmt.Errorf("purge: %w", errCorruptSource)
	}
	p = purge{seq: seq, key: e.Key, uuid: parts[0], id: parts[1], revisions: parts[2]}
	p.info = tupleOf([]erlterm.Term{p.key, p.uuid, p.id, p.revisions})
	return p, nil
}

// byUUID is the purge's entry of the other tree.
func (p *purge) byUUID() couchfile.Entry {
	return couchfile.Entry{Key: p.uuid, Value: tupleOf([]erlterm.Term{p.key, p.id, p.revisions})}
}

// copyPurges copies purges behind the last one that an earlier pass copied,
// in batches.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, copy_purge_info.
func (c *Compaction) copyPurges(src *Source, minSeq uint64) error {
	since, err := c.lastPurge()
	if err != nil {
		return err
	}
	var batch []purge
	size, copied := 0, 0
	for e, err := range src.Purges(since) {
		if err != nil {
			return err
		}
		p, err := parsePurge(e.Entry)
		if err != nil {
			return err
		}
		batch = append(batch, p)
		size += 1 + len(p.info)
		end := e.Batch
		if !c.p.Told {
			end = c.batch(size, copied)
		}
		if end == BatchGoesOn {
			continue
		}
		if err := c.copyPurgeBatch(src, batch, minSeq); err != nil {
			return err
		}
		copied += size
		if batch, size = batch[:0], 0; end == BatchCheckpoint {
			copied = 0
			if err := c.checkpoint(); err != nil {
				return err
			}
		}
	}
	return c.copyPurgeBatch(src, batch, minSeq)
}

// lastPurge is the largest purge_seq in the file.
func (c *Compaction) lastPurge() (uint64, error) {
	last, err := c.purgeSeqs.Last()
	if err != nil || last == nil {
		return 0, err
	}
	seq, _, _ := erlterm.Uint(last)
	return seq, nil
}

// copyPurgeBatch adds purges to their trees and, when documents were copied
// already, removes those that are purged altogether.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, copy_purge_infos.
func (c *Compaction) copyPurgeBatch(src *Source, batch []purge, minSeq uint64) error {
	var byUUID, bySeq []couchfile.Entry
	for _, p := range batch {
		if p.seq > minSeq {
			byUUID = append(byUUID, p.byUUID())
			bySeq = append(bySeq, couchfile.Entry{Key: p.key, Value: tupleOf([]erlterm.Term{p.uuid, p.id, p.revisions})})
		}
	}
	if err := c.purges.Modify(byUUID, nil); err != nil {
		return err
	}
	if err := c.purgeSeqs.Modify(bySeq, nil); err != nil {
		return err
	}
	if c.passes == 1 {
		return nil
	}
	ids, seqs, err := c.purged(src, batch)
	if err != nil {
		return err
	}
	if err := c.ids.Modify(nil, ids); err != nil {
		return err
	}
	return c.seqs.Modify(nil, seqs)
}

// purged finds documents of the file that src has no more.
func (c *Compaction) purged(src *Source, batch []purge) (ids, seqs []erlterm.Term, err error) {
	seen := map[string]bool{}
	for _, p := range batch {
		if seen[string(p.id)] {
			continue
		}
		seen[string(p.id)] = true
		has, err := src.Has(p.id)
		if err != nil {
			return nil, nil, err
		}
		if has {
			continue
		}
		was, err := c.ids.Lookup(p.id)
		if err != nil {
			return nil, nil, err
		}
		if was != nil {
			ids, seqs = append(ids, p.id), append(seqs, slices.Clone(firstOf(was)))
		}
	}
	return ids, seqs, nil
}

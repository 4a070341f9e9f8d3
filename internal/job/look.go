package job

import "encoding/json"

// LookAttachment is the name of the look that answers with the bytes of an attachment, after a line of JSON that says which; those
// of others are in package contents.
const LookAttachment = "attachment"

// Look is what a server asks an agent to read out of backups for somebody who may read them: that the server has seen to. It is
// sent compressed by gzip and sealed to the agent's recipient, so nobody on the way knows what is asked for.
type Look struct {
	Instance string          `json:"instance"` // id
	Name     string          `json:"name"`
	Query    json.RawMessage `json:"query"`
	// Backups are those of the instance that may be read, the newest first, with what it takes to find them.
	Backups []*Backup `json:"backups"`
	// Recipient is whom the answer is sealed to. The server has made it up for this look, and tells nobody else: so an answer that
	// it can open is one of who could open the question.
	Recipient string `json:"recipient"`
}

// LookHead is the first line of an answer, as JSON. What follows it is the answer itself, if nothing was refused.
type LookHead struct {
	Kind    int    `json:"kind,omitempty"` // of the refusal, as package refusal numbers them; 0 is none
	Message string `json:"message,omitempty"`
}
